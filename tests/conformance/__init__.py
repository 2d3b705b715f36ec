"""TensorFlow Serving's contract, tested on the embedded server or a real one."""
