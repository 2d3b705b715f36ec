"""Image data sets, split into training and test examples."""

import importlib
from typing import TYPE_CHECKING, Any

from bn_keras.data.catalog import DATA_SETS, load

if TYPE_CHECKING:
    from bn_keras.data.arrays import Arrays
    from bn_keras.data.bad_files import reading
    from bn_keras.data.bundled_digits import digits
    from bn_keras.data.cifar10_files import cifar10
    from bn_keras.data.converting import convert
    from bn_keras.data.folders import Files, image_folder
    from bn_keras.data.imagenet_files import imagenet
    from bn_keras.data.mnist_files import mnist
    from bn_keras.data.orders import Shuffling
    from bn_keras.data.shards import Records, records
    from bn_keras.data.splits import Data, Split

__all__ = [
    "DATA_SETS",
    "Arrays",
    "Data",
    "Files",
    "Records",
    "Shuffling",
    "Split",
    "cifar10",
    "convert",
    "digits",
    "image_folder",
    "imagenet",
    "load",
    "mnist",
    "reading",
    "records",
]

# The module of each public name, imported when the name is first used: the help of the
# command line lists the data sets and must wait for neither NumPy nor Keras. No module
# has the name of a function here, because importing it would hide the function.
_MODULES = {
    **DATA_SETS,
    "Arrays": "arrays",
    "Data": "splits",
    "Files": "folders",
    "Records": "shards",
    "Shuffling": "orders",
    "Split": "splits",
    "convert": "converting",
    "reading": "bad_files",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
