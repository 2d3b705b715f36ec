"""Image data sets, split into training and test examples."""

from typing import TYPE_CHECKING

from bn_keras.data.catalog import DATA_SETS, load
from bn_keras.lazy_names import lazy_names

if TYPE_CHECKING:
    from bn_keras.data.arrays import Arrays
    from bn_keras.data.bad_files import report_bad_files
    from bn_keras.data.bundled_digits import digits
    from bn_keras.data.cifar10_files import cifar10
    from bn_keras.data.data_set import Data
    from bn_keras.data.files import Files
    from bn_keras.data.folders import image_folder
    from bn_keras.data.imagenet_files import imagenet
    from bn_keras.data.mnist_files import mnist
    from bn_keras.data.orders import Shuffling
    from bn_keras.data.records_reader import records
    from bn_keras.data.records_writer import convert
    from bn_keras.data.shards import Records
    from bn_keras.data.splits import Split

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
    "records",
    "report_bad_files",
]

# The module of each public name, imported when the name is first used: the help of the
# command line lists the data sets and must wait for neither NumPy nor Keras.
_MODULES = {
    **DATA_SETS,
    "Arrays": "bn_keras.data.arrays",
    "Data": "bn_keras.data.data_set",
    "Files": "bn_keras.data.files",
    "Records": "bn_keras.data.shards",
    "Shuffling": "bn_keras.data.orders",
    "Split": "bn_keras.data.splits",
    "convert": "bn_keras.data.records_writer",
    "report_bad_files": "bn_keras.data.bad_files",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
