"""TensorFlow Serving's REST interface, its metrics' path and a page for people.

Knows no model and no version on disk.
"""

from bn_keras_serving.rest.server import RestServer

__all__ = ["RestServer"]
