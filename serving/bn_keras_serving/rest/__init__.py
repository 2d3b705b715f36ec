"""TensorFlow Serving's REST interface, with metrics and a status page."""
