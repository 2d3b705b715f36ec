"""The data sets by name."""

from bn_keras.data.cifar10 import cifar10
from bn_keras.data.digits import digits
from bn_keras.data.folders import check_bad_files, image_folder
from bn_keras.data.imagenet import imagenet
from bn_keras.data.mnist import mnist
from bn_keras.data.shards import records

DATA = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "image_folder": image_folder,
    "imagenet": imagenet,
    "records": records,
}
# These hold no picture files that could be damaged one by one.
_WITHOUT_FILES = ("digits", "mnist")


def load(name, directory=None, bad_files="error"):
    """The data set of that name.

    Args:
        name: a key of `DATA`.
        directory: folder of its files; None for those that are bundled or downloaded.
        bad_files: `"error"`, or `"skip"` to leave out pictures that cannot be read;
            `Data.skipped` names them.

    Raises:
        ValueError: for an unknown name, or arguments that the set does not take.
    """
    if name not in DATA:
        raise ValueError(
            f"The data set must be one of {', '.join(DATA)}. Received: {name!r}"
        )
    check_bad_files(bad_files)
    if name in _WITHOUT_FILES:
        if bad_files == "skip":
            raise ValueError(
                f"The data set {name!r} has no picture files to skip. Received: "
                "bad_files='skip'; leave it out"
            )
        if directory is None:
            return DATA[name]()
        if name == "digits":
            raise ValueError(
                "The data set 'digits' is bundled and takes no directory. "
                f"Received: {directory}"
            )
        return DATA[name](directory)
    return DATA[name](directory, bad_files)
