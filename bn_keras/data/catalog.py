"""The data sets by name."""

import importlib

# The module of each data set's function, which has the data set's name.
DATA_SETS = {
    "digits": "bn_keras.data.bundled_digits",
    "mnist": "bn_keras.data.mnist_files",
    "cifar10": "bn_keras.data.cifar10_files",
    "image_folder": "bn_keras.data.folders",
    "imagenet": "bn_keras.data.imagenet_files",
    "records": "bn_keras.data.shards",
}
# These hold no picture files that could be damaged one by one.
_WITHOUT_FILES = ("digits", "mnist")


def load(name, directory=None, bad_files="error"):
    """The data set of that name.

    Args:
        name: a key of `DATA_SETS`.
        directory: folder of its files; None for those that are bundled or downloaded.
        bad_files: `"error"`, or `"skip"` to leave out pictures that cannot be read;
            `Data.skipped` names them.

    Raises:
        ValueError: for an unknown name, or arguments that the set does not take.
    """
    if name not in DATA_SETS:
        raise ValueError(
            f"The data set must be one of {', '.join(DATA_SETS)}. Received: {name!r}"
        )
    # Imported here, so that the names alone can be had without NumPy and Keras.
    from bn_keras.data.folders import check_bad_files

    check_bad_files(bad_files)
    module = importlib.import_module(DATA_SETS[name])
    read = getattr(module, name)
    if name in _WITHOUT_FILES:
        if bad_files == "skip":
            raise ValueError(
                f"The data set {name!r} has no picture files to skip. Received: "
                "bad_files='skip'; leave it out"
            )
        if directory is None:
            return read()
        if name == "digits":
            raise ValueError(
                "The data set 'digits' is bundled and takes no directory. "
                f"Received: {directory}"
            )
        return read(directory)
    return read(directory, bad_files)
