"""Let Keras load saved models that hold this package's layers.

`import bn_keras` must be enough for `keras.models.load_model`, but must not import
Keras, which takes seconds. So the layers are registered as soon as anything imports
Keras: before `import keras` returns.
"""

import importlib.util
import sys


def register_with_keras() -> None:
    """Register the layers now if Keras is imported, otherwise when it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _register():
    # If it was this package that imported Keras, this returns the module as it is so
    # far, and the layers are registered when its import ends.
    import bn_keras.layer  # noqa: F401


class _KerasFinder:
    """Finds Keras as the other finders do, and registers the layers after it.

    It has the methods of `importlib.abc.MetaPathFinder`, whose import would double the
    time of `bn-keras --version`.
    """

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
            _register()

        # The loader belongs to this spec alone, so nothing else sees the change.
        spec.loader.exec_module = execute_then_register
        return spec
