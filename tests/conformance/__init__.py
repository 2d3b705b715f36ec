"""The contract of TensorFlow Serving, for the embedded server or a real one."""
