"""Let Keras load saved models that hold this package's layers.

`import bn_keras` must be enough for `keras.models.load_model`, but must not import
Keras, which takes seconds. So the layers are registered as soon as anything imports
Keras: before `import keras` returns.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


def register_with_keras() -> None:
    """Register the layers now if Keras is imported, otherwise when it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _register() -> None:
    # Importing the layers registers them. If this runs because `bn_keras.layer` itself
    # is importing Keras, the statement returns the module in its current state, and the
    # layers are registered when that import ends.
    import bn_keras.layer  # noqa: F401


class _KerasFinder:
    """A finder that leaves Keras to the other finders, but registers the layers.

    It has the methods of `importlib.abc.MetaPathFinder`, whose import would double the
    time of `bn-keras --version`.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of Keras with a loader that also registers the layers."""
        if fullname != "keras":
            return None
        # Needed only once; and `importlib.util.find_spec` asks all finders, so that
        # this one would call itself without end.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            _register()

        # The loader belongs to this spec alone, so nothing else sees the change.
        spec.loader.exec_module = execute_then_register
        return spec
