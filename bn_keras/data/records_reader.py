"""Open the TFRecord shards that `convert` has written."""

import json
import os

from bn_keras.data.bad_files import BadFiles, check_bad_files, find_unreadable
from bn_keras.data.data_set import Data
from bn_keras.data.folders import check_folder
from bn_keras.data.shards import Records

DESCRIPTION = "dataset.json"


def records(
    directory: str | os.PathLike[str] | None, bad_files: BadFiles = "error"
) -> Data:
    """Read a data set that `convert` has written.

    Args:
        directory: The folder that `convert` has written.
        bad_files: As in `image_folder`.

    Returns:
        `Data` with images as they were converted.

    Raises:
        ValueError: If the description or a file of records is missing, or differs from
            what was written.

    Example:
    ```python
    import numpy as np
    from bn_keras import data

    images = np.zeros((12, 8, 8, 3), "uint8")
    split = data.Arrays(images, np.arange(12) % 3)
    data.convert(data.Data("black", split, split, ("a", "b", "c")), "black")
    assert len(data.records("black").train) == 12
    ```
    """
    directory = check_folder(directory)
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text())
        splits = {}
        for purpose in ("train", "test", "validation"):
            # Most data sets have no validation examples.
            if purpose == "validation" and purpose not in description["splits"]:
                continue
            shards = description["splits"][purpose]
            for name, shard in shards.items():
                size = (directory / name).stat().st_size
                if size != shard["bytes"]:
                    raise ValueError(
                        f"{name} has {size} bytes instead of {shard['bytes']}"
                    )
            _check_counts(shards.values(), description["class_names"])
            counts = [shard["examples"] for shard in shards.values()]
            files = [directory / name for name in shards]
            splits[purpose] = Records(files, counts, description["shape"])
        data_name, class_names = description["name"], tuple(description["class_names"])
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory} must hold {DESCRIPTION} and the files of records that it "
            f"lists, as bn-keras data convert writes them. Received: {error}. Copy or "
            "convert them again."
        ) from None
    return records_data(
        data_name, **splits, class_names=class_names, bad_files=bad_files
    )


def _check_counts(shards, class_names):
    """Raise a `ValueError` if the numbers of examples contradict one another."""
    if not all(isinstance(name, str) for name in class_names):
        raise ValueError("class names that are not strings")
    for shard in shards:
        counts = shard["examples_per_class"]
        if sum(counts.values()) != shard["examples"]:
            raise ValueError(f"{shard['examples']} examples, but {counts} by class")
        if any(not 0 <= int(label) < len(class_names) for label in counts):
            raise ValueError(f"labels {list(counts)} for {len(class_names)} classes")
    if not sum(shard["examples"] for shard in shards):
        raise ValueError("a split without examples")


def records_data(
    name: str,
    train: Records,
    test: Records,
    class_names: tuple[str, ...],
    bad_files: BadFiles = "error",
    validation: Records | None = None,
) -> Data:
    """Return a data set of records.

    Args:
        name: The name of the data set.
        train: The training records.
        test: The test records.
        class_names: The name of each class.
        bad_files: As in `image_folder`.
        validation: The validation records, or `None`.
    """
    check_bad_files(bad_files)
    skipped, splits = [], [train, test, validation]
    if bad_files == "skip":
        for index, split in enumerate(splits):
            if split and (unreadable := find_unreadable(split)).size:
                skipped += map(split.describe, unreadable)
                splits[index] = split.without(unreadable)
    train, test, validation = splits
    assert train is not None
    assert test is not None
    return Data(name, train, test, class_names, tuple(skipped), validation)
