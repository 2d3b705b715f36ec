"""What a data set holds, in a few lines, before it is used."""

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.data_set import Data
from bn_keras.data.files import Files
from bn_keras.data.layouts import count_noun
from bn_keras.data.picture_files import MANY, SAMPLE


def summarize(data: Data) -> list[str]:
    """Return lines about the pictures, classes and sizes, and what was ignored.

    Args:
        data: A `Data`.

    Returns:
        A list of sentences without a period.

    Example:
    ```python
    from bn_keras import data
    from bn_keras.data.summary import summarize

    assert summarize(data.digits())[0].startswith(
        "digits: 1,437 training and 360 test examples of 10 classes"
    )
    ```
    """
    parts = [f"{len(data.train):,} training"]
    if data.validation is not None:
        parts.append(f"{len(data.validation):,} validation")
    counts = f"{', '.join(parts)} and {len(data.test):,} test examples"
    lines = [f"{data.name}: {counts} of {len(data.class_names):,} classes"]
    if isinstance(data.train, Files | Arrays):
        per_class = np.bincount(data.train.labels, minlength=len(data.class_names))
        if per_class.min() < per_class.max():
            lines[0] += f", {per_class.min():,} to {per_class.max():,} training each"
    if isinstance(data.train, Files):
        lines += _describe_files(data.train)
    if data.skipped:
        files = count_noun(len(data.skipped), "file")
        lines.append(f"left out {files} that cannot be read")
    lines += data.notes
    return lines


def _describe_files(files: Files) -> list[str]:
    """Return the range of sizes, and how many pictures were taken upright."""
    facts = files.facts()
    facts = facts[facts["height"] > 0]
    if not facts.size:
        return []
    of = f" (of {SAMPLE:,} looked at)" if len(files) > MANY else ""
    areas = facts["height"].astype(np.int64) * facts["width"]
    smallest, largest = (
        f"{facts[index]['width']} x {facts[index]['height']}"
        for index in (areas.argmin(), areas.argmax())
    )
    size = smallest if areas.min() == areas.max() else f"{smallest} to {largest}"
    lines = [f"width x height {size} pixels{of}"]
    if rotated := int(facts["rotated"].sum()):
        lines.append(
            f"{count_noun(rotated, 'picture')}{of} must be rotated by the EXIF "
            "orientation, which training, evaluation and prediction ignore; rotate the "
            "files if that matters"
        )
    return lines
