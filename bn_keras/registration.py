"""Let Keras load saved models that hold this package's layers.

`import bn_keras` must be enough for `keras.models.load_model`, and must not import
Keras, which takes seconds. So the layers register themselves as soon as something else
imports Keras: before `import keras` returns.
"""

import importlib
import importlib.abc
import importlib.util
import sys

# The modules whose import registers a layer.
_REGISTERING = (
    "bn_keras.layer.batch_normalization",
    "bn_keras.folding.scale_shift",
    "bn_keras.models.local_response_normalization",
)


def register_with_keras() -> None:
    """Register the layers now if Keras is imported, else when it will be."""
    if "keras" in sys.modules:
        _import_layers()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _import_layers():
    for module in _REGISTERING:
        importlib.import_module(module)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as the other finders do, and registers the layers after it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        # One import is enough, and `find_spec` below must not come back here.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_register(module):
            execute(module)
            _import_layers()

        # The loader belongs to this spec alone, so nothing else sees the change.
        spec.loader.exec_module = execute_then_register
        return spec
