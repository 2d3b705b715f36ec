"""Find the pictures of each class in the layouts that folders of pictures have."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# What TensorFlow decodes.
EXTENSIONS = (
    *(b".jpg", b".jpeg", b".jpe", b".jfif"),
    *(b".png", b".bmp", b".gif", b".webp"),
)
# Names of the folders of a split, in any case.
TRAIN_FOLDERS = ("train", "training")
VALIDATION_FOLDERS = ("val", "valid", "validation")
TEST_FOLDERS = ("test", "testing")
# Where there is no folder of test images, every tenth image of each class is one.
TEST_EVERY = 10
# Tiny-ImageNet's table of validation images: a file and its class in each line.
ANNOTATIONS = "val_annotations.txt"
_EXTENSION_NAMES = ", ".join(extension.decode() for extension in EXTENSIONS)
LAYOUT = (
    "train/CLASS/ and val/CLASS/ (or valid, validation, test), or CLASS/ alone, with "
    f"images ({_EXTENSION_NAMES})"
)
# More names than these are counted in an error, not listed.
_NAMES_SHOWN = 5
# How many folders that hold nothing but one folder may enclose a data set.
_ENCLOSING = 3

# From a class to the paths of its images, all bytes (file names need not be UTF-8),
# both sorted.
Classes = dict[bytes, list[bytes]]


@dataclass
class Layout:
    """The images of each split, and what was ignored.

    Args:
        root: The folder that holds the splits or the classes.
        train: The training images.
        validation: The validation images, or `None`.
        test: The test images.
        notes: How the splits were made, as sentences without a period.
        ignored: The number of other files by their extension, or by their folder.
    """

    root: Path
    train: Classes = field(default_factory=dict)
    validation: Classes | None = None
    test: Classes = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def find_layout(directory: Path) -> Layout:
    """Return the images of a folder.

    Args:
        directory: A folder that exists.

    Raises:
        ValueError: If the folder has no layout that is known. The text names a file or
            folder that is there.
    """
    layout = Layout(_enclosed(directory))
    folders = {name.lower(): name for name in map(os.fsdecode, _folders(layout.root))}
    splits = [
        next((layout.root / folders[name] for name in names if name in folders), None)
        for names in (TRAIN_FOLDERS, VALIDATION_FOLDERS, TEST_FOLDERS)
    ]
    train, validation, test = splits
    # A class may be called "train" too: a folder of images beside those of others.
    is_alone = validation is None and test is None
    if train is not None and is_alone and len(folders) > 1 and _has_images(train):
        train = None
    if train is None:
        # Otherwise these are names of classes.
        if folders and set(folders) <= {*VALIDATION_FOLDERS, *TEST_FOLDERS}:
            raise ValueError(
                f"`directory` must hold {LAYOUT}. Received: {directory} with "
                f"{', '.join(folders.values())} but without train/. Add the training "
                "images, or name another folder (--data-dir)."
            )
        classes = list_classes(layout.root, layout.ignored)
        layout.train, layout.test = _divide(classes, directory)
        layout.notes.append("every tenth picture is a test picture")
        return layout
    _pass_over_others(layout, splits)
    layout.train = list_classes(train, layout.ignored)
    if validation is not None:
        layout.validation = _list_labelled(validation, layout)
        if layout.validation is None:
            raise ValueError(
                f"{validation} must have a folder for each class, as {train} has, or "
                f"{ANNOTATIONS}. Received: {_example(validation)} without a class. "
                "Sort the pictures into folders, or remove the folder."
            )
    labelled = None if test is None else _list_labelled(test, layout)
    if test is not None and labelled is None:
        layout.notes.append(
            f"ignored {test.name}/, whose pictures have no labels ({_example(test)})"
        )
    if labelled is not None:
        layout.test = labelled
        if layout.validation is None:
            layout.notes.append("no validation pictures")
    elif layout.validation is not None:
        layout.test, layout.validation = layout.validation, None
    else:
        layout.train, layout.test = _divide(layout.train, train)
        layout.notes.append("every tenth picture of train/ is a test picture")
    return layout


def _enclosed(directory: Path) -> Path:
    """Return the folder with several entries inside folders that hold only one."""
    for _ in range(_ENCLOSING):
        folders = _folders(directory)
        if len(folders) != 1 or _has_images(directory):
            break
        inner = directory / os.fsdecode(folders[0])
        names = (*TRAIN_FOLDERS, *VALIDATION_FOLDERS, *TEST_FOLDERS)
        if not _folders(inner) or inner.name.lower() in names:
            break
        directory = inner
    return directory


def _has_images(folder: Path) -> bool:
    """Return whether a folder holds images itself."""
    return bool(list_images(os.fsencode(folder), recurse=False))


def _pass_over_others(layout: Layout, splits: Sequence[Path | None]) -> None:
    """Count the images beside and in other folders than those of the splits."""
    root = os.fsencode(layout.root)
    _count_outside_classes(root, layout.ignored)
    used = {os.fsencode(path.name) for path in splits if path is not None}
    for name in _folders(layout.root):
        if name not in used and (images := list_images(root + b"/" + name)):
            layout.ignored[f"in {readable_name(name)}/"] += len(images)


def _count_outside_classes(folder: bytes, ignored: Counter[str]) -> None:
    """Count the images in a folder that should hold only folders."""
    if images := list_images(folder, recurse=False):
        example = readable_name(images[0])
        ignored[f"in no folder of a class ({example})"] += len(images)


def _list_labelled(folder: Path, layout: Layout) -> Classes | None:
    """List the images of each class in a folder beside train, `None` without labels."""
    table = folder / ANNOTATIONS
    if table.is_file():
        return _list_annotated(folder, table)
    names = _folders(folder)
    # Folders of other names may be classes that are missing from the training images.
    are_classes = len(names) > 1 and not _has_images(folder)
    if not are_classes and not set(names) & set(layout.train):
        return None
    return list_classes(folder, layout.ignored)


def _list_annotated(folder: Path, table: Path) -> Classes:
    """List the images that a table assigns to classes, which must all exist."""
    by_name = {
        path.rpartition(b"/")[2]: path
        for path in list_images(os.fsencode(folder), recurse=True)
    }
    classes: Classes = {}
    for line in table.read_bytes().splitlines():
        if not line.strip():
            continue
        name, label = [*line.split(b"\t"), b""][:2]
        if name not in by_name or not label:
            raise ValueError(
                f"Each line of {table} must have a file in {folder} and its class. "
                f"Received: {readable_name(line[:80])!r}. Unpack the data set again."
            )
        classes.setdefault(label, []).append(by_name.pop(name))
    if by_name:
        raise ValueError(
            f"{table} must have a line for each file in {folder}. Received: "
            f"{readable_name(min(by_name))} without one. Unpack the data set again."
        )
    return {label: sorted(paths) for label, paths in sorted(classes.items())}


def _divide(classes: Classes, folder: Path) -> tuple[Classes, Classes]:
    """Return the training images, and every tenth one for the test."""
    for name, paths in classes.items():
        if len(paths) < 2:
            raise ValueError(
                "Each class must have at least 2 images, one for training and one for "
                f"testing. Received: {len(paths)} in {readable_name(name)} of "
                f"{folder}. Add images."
            )
    train, test = {}, {}
    for name, paths in classes.items():
        test[name] = paths[::TEST_EVERY]
        train[name] = [p for i, p in enumerate(paths) if i % TEST_EVERY]
    return train, test


def list_classes(folder: Path, ignored: Counter[str] | None = None) -> Classes:
    """List the images of each class, those in folders below it among them.

    Args:
        folder: The folder that holds a folder for each class.
        ignored: Receives the number of other files by their extension, and that of
            images in no class folder.

    Raises:
        ValueError: If there is no class folder, or one of them has no image.
    """
    names = _folders(folder)
    if not names:
        raise ValueError(
            f"{folder} must have one folder of images for each class. Received: "
            f"{_example(folder)}. Expected {LAYOUT}. Sort the images into such "
            "folders, or name another one (--data-dir)."
        )
    root = os.fsencode(folder)
    if ignored is not None:
        _count_outside_classes(root, ignored)
    classes = {name: list_images(root + b"/" + name, ignored) for name in names}
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        first = folder / os.fsdecode(empty[0])
        raise ValueError(
            f"Every class in {folder} must have images ({_EXTENSION_NAMES}). Received: "
            f"{list_some([*map(readable_name, empty)])} without images (in the first: "
            f"{_example(first)}). Add images, or remove the folder."
        )
    return classes


def list_images(
    folder: bytes, ignored: Counter[str] | None = None, *, recurse: bool = True
) -> list[bytes]:
    """Return the sorted paths of the images in a folder.

    Hidden files are ignored, and so is what macOS adds to a zip archive.

    Args:
        folder: The folder.
        ignored: Receives the number of other files by their extension.
        recurse: Whether images in folders below it are listed too.
    """
    paths, folders, seen = [], [folder], set()
    while folders:
        current = folders.pop()
        # A link may lead to a folder above.
        if (real := os.path.realpath(current)) in seen:
            continue
        seen.add(real)
        for entry in os.scandir(current):
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                if recurse:
                    folders.append(entry.path)
            elif entry.name.lower().endswith(EXTENSIONS):
                paths.append(entry.path)
            elif ignored is not None:
                _, dot, extension = entry.name.lower().rpartition(b".")
                kind = readable_name(dot + extension) if dot else "without extension"
                ignored[kind] += 1
    return sorted(paths)


def _folders(folder: Path) -> list[bytes]:
    """Return the sorted names of the folders in a folder."""
    return sorted(
        entry.name
        for entry in os.scandir(os.fsencode(folder))
        if entry.is_dir() and not _is_hidden(entry.name)
    )


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name == b"__MACOSX"


def _example(folder: Path) -> str:
    """Return the path of a file or folder that is in a folder, for an error."""
    for current, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            if not _is_hidden(name):
                return readable_name(current + b"/" + name)
    return f"nothing in {folder}"


def readable_name(name: bytes) -> str:
    """Return the bytes of a file name as text that can be printed."""
    return name.decode("utf-8", "backslashreplace")


def count_noun(count: int, noun: str) -> str:
    """Return a number and a noun, in the plural unless the number is 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def list_some(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    others = len(names) - _NAMES_SHOWN
    listed = ", ".join(names[:_NAMES_SHOWN])
    return f"{listed} and {others} more" if others > 0 else listed
