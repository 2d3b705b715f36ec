"""Image data sets, split into training and test examples."""

from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import reading
from bn_keras.data.catalog import DATA, load
from bn_keras.data.cifar10 import cifar10
from bn_keras.data.converting import convert
from bn_keras.data.digits import digits
from bn_keras.data.folders import Files, image_folder
from bn_keras.data.imagenet import imagenet
from bn_keras.data.mnist import mnist
from bn_keras.data.orders import Shuffling
from bn_keras.data.shards import Records, records
from bn_keras.data.splits import Data, Split

__all__ = [
    "DATA",
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
