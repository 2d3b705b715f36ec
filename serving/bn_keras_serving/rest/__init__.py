"""TensorFlow Serving's REST interface, with metrics and a status page."""

from bn_keras_serving.rest.server import RestServer

__all__ = ["RestServer"]
