"""The data sets by name."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bn_keras.data.bad_files import BadFiles
    from bn_keras.data.data_set import Data

# The module of each data set's function, which has the data set's name.
DATA_SETS = {
    "digits": "bn_keras.data.bundled_digits",
    "mnist": "bn_keras.data.mnist_files",
    "cifar10": "bn_keras.data.cifar10_files",
    "image_folder": "bn_keras.data.folders",
    "imagenet": "bn_keras.data.imagenet_files",
    "records": "bn_keras.data.records_reader",
}
# These have no image files that could be damaged one by one.
_WITHOUT_FILES = ("digits", "mnist")


def load(
    name: str,
    directory: str | os.PathLike[str] | None = None,
    bad_files: "BadFiles" = "error",
) -> "Data":
    """Load a data set by its name.

    Args:
        name: A key of `DATA_SETS`.
        directory: The folder of its files. `None` for a data set that is bundled or
            downloaded.
        bad_files: `"error"`, or `"skip"` to leave out images that cannot be read;
            `Data.skipped` lists them.

    Returns:
        The `Data`.

    Raises:
        ValueError: If the name is unknown, or the data set does not take an argument.

    Example:
    ```python
    from bn_keras import data

    assert data.load("digits").name == "digits"
    ```
    """
    if name not in DATA_SETS:
        raise ValueError(
            f"`name` must be one of {', '.join(DATA_SETS)}. Received: name={name!r}"
        )
    # Imported here, so that the names alone are available without NumPy and Keras.
    from bn_keras.data.bad_files import check_bad_files

    check_bad_files(bad_files)
    read = getattr(importlib.import_module(DATA_SETS[name]), name)
    if name not in _WITHOUT_FILES:
        return read(directory, bad_files)
    if bad_files == "skip":
        raise ValueError(
            "`bad_files` must be 'error' for a data set without image files. Received: "
            f"bad_files='skip' for {name!r}. Leave it out (--skip-bad-files)."
        )
    if directory is None:
        return read()
    if name == "digits":
        raise ValueError(
            "`directory` must be None for 'digits', which are bundled. Received: "
            f"directory={directory}. Leave it out (--data-dir)."
        )
    return read(directory)
