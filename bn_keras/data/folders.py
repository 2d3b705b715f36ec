"""Image files in one folder for each class."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bn_keras.data.bad_files import BadFiles, check_bad_files, find_unreadable
from bn_keras.data.data_set import Data
from bn_keras.data.files import Files
from bn_keras.data.layouts import Classes, find_layout, list_some, readable_name


def image_folder(
    directory: str | os.PathLike[str] | None, bad_files: BadFiles = "error"
) -> Data:
    """Read images (JPEG, PNG, BMP, GIF, WebP) from one folder for each class.

    The folder holds `train/<class>/` and, if there are such images,
    `val/<class>/` and `test/<class>/`; `training`, `valid`, `validation` and `testing`
    are the same, in any case. With both, `Data.validation` has those of `val`. Images
    of `test` without classes are ignored. Or the folder holds `<class>/` alone:
    then the first image of each class, the eleventh and so on, sorted by name, are the
    test images. Tiny-ImageNet is read as it unpacks. Folders inside the folder of a
    class belong to it. Hidden files are ignored, files of other formats are counted
    in `Data.notes`. Of an animation the first image is used. The EXIF
    orientation of a file is ignored everywhere, in exports too.

    Args:
        directory: The folder.
        bad_files: `"error"` raises an error that names a file when it cannot be read.
            `"skip"` decodes all files now and leaves out those that cannot be read.

    Returns:
        `Data` with images of any size. The classes are sorted by name.

    Raises:
        ValueError: If there are no classes or no images, if a class is empty, or if
            training and validation have different classes.

    Example:
    ```python
    import pathlib, tempfile
    import numpy as np
    from PIL import Image
    from bn_keras import data

    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            for name in ("black", "white"):
                path = pathlib.Path(folder) / split / name
                path.mkdir(parents=True)
                Image.new("RGB", (8, 6), name).save(path / "plain.png")
        tones = data.image_folder(folder)
        images, labels = next(iter(tones.train.original_images().batch(2)))

    assert tones.class_names == ("black", "white")
    assert np.array(images).shape == (2, 6, 8, 3)
    ```
    """
    directory = check_folder(directory)
    layout = find_layout(directory)
    return folder_data(
        directory.resolve().name,
        layout.train,
        layout.test,
        bad_files,
        validation=layout.validation,
        root=layout.root,
        notes=(*layout.notes, *describe_ignored(layout.ignored)),
    )


def describe_ignored(counts: Counter[str]) -> list[str]:
    """Return the note about files that are no images which can be read, if any."""
    if not counts:
        return []
    # Pictures in other folders before other files.
    kinds = sorted(
        counts.items(), key=lambda pair: (not pair[0].startswith("in "), -pair[1])
    )
    named = [f"{count:,} {kind}" for kind, count in kinds]
    return [f"ignored files: {list_some(named)}"]


def check_folder(directory: str | os.PathLike[str] | None) -> Path:
    """Return the folder as a path.

    Raises:
        ValueError: If it is not a folder that exists.
    """
    if directory is None or not Path(directory).is_dir():
        kind = "a file, " if directory and Path(directory).exists() else ""
        raise ValueError(
            f"`directory` must be a folder that exists. Received: {kind}{directory}. "
            "Give the folder of the data set (--data-dir)."
        )
    return Path(directory)


def folder_data(
    name: str,
    train: Mapping[bytes, Sequence[bytes]],
    test: Mapping[bytes, Sequence[bytes]],
    bad_files: BadFiles = "error",
    class_names: Mapping[str, str] | None = None,
    shape: tuple[int | None, int | None, int] = (None, None, 3),
    *,
    validation: Classes | None = None,
    root: str | os.PathLike[str] = "/",
    notes: Sequence[str] = (),
) -> Data:
    """Return a data set of image files.

    Args:
        name: The name of the data set.
        train: Dict from the class to the paths of its training images, all bytes.
        test: The same for the test images.
        bad_files: As in `image_folder`.
        class_names: Dict from the class to the name that users see. `None` keeps the
            names of the folders.
        shape: As in `Files`.
        validation: As `test`, for validation images, or `None`.
        root: As in `Files`.
        notes: As in `Data`.

    Raises:
        ValueError: If the splits have different classes, or a class has no file that
            can be read.
    """
    check_bad_files(bad_files)
    listings = {"training": train, "test": test}
    if validation is not None:
        listings["validation"] = validation
    for purpose, listing in listings.items():
        _check_classes(train, listing, purpose)
    classes = sorted(train)
    splits, skipped = {}, []
    for purpose, listing in listings.items():
        labels = [i for i, key in enumerate(classes) for _ in listing[key]]
        paths = [path for key in classes for path in listing[key]]
        split = Files(paths, labels, shape, root)
        if bad_files == "skip" and (unreadable := find_unreadable(split)).size:
            skipped += map(split.describe, unreadable)
            split = split.without(unreadable)
            for label in set(range(len(classes))).difference(split.labels.tolist()):
                raise ValueError(
                    "Every class must have images that can be read. Received: "
                    f"{readable_name(classes[label])}, all of whose files are damaged, "
                    f"among them {skipped[-1]}. Repair them, or remove the class."
                )
        splits[purpose] = split
    names = [readable_name(key) for key in classes]
    if class_names:
        names = [class_names.get(name, name) for name in names]
    return Data(
        name,
        splits["training"],
        splits["test"],
        tuple(names),
        tuple(skipped),
        splits.get("validation"),
        tuple(notes),
    )


def _check_classes(
    train: Mapping[bytes, Sequence[bytes]],
    other: Mapping[bytes, Sequence[bytes]],
    purpose: str,
) -> None:
    """Raise a `ValueError` unless two splits have the same classes."""
    # Only two names of splits are known to users: the images to train on, and others.
    purpose = "validation" if purpose == "test" else purpose
    for has, lacks, missing_purpose in (
        (train, other, purpose),
        (other, train, "training"),
    ):
        if missing := sorted(has.keys() - lacks.keys()):
            example = readable_name(has[missing[0]][0])
            raise ValueError(
                "Training and validation must have the same classes. Received: "
                f"{list_some([*map(readable_name, missing)])} without "
                f"{missing_purpose} images (there is {example}). Add images, or remove "
                "the class."
            )
