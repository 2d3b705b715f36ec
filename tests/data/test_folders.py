"""Folders of images: which files are read, and the errors for bad ones."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from image_files import encode, gradient_image, write_image_folder

from bn_keras import data
from bn_keras.images.preprocessing import Augmentation, Preprocessing

CLASSES = ("cat", "dog")
PREPROCESSING = Preprocessing((8, 8))


@pytest.fixture
def folder(tmp_path):
    """Two classes with 6 training and 3 validation images each."""
    write_image_folder(tmp_path / "train", CLASSES, 6)
    write_image_folder(tmp_path / "val", CLASSES, 3)
    return tmp_path


def labels(split):
    return [label for _, label in split.original_images().as_numpy_iterator()]


def test_classes_and_files_are_sorted(folder):
    opened = data.image_folder(folder)
    assert opened.class_names == CLASSES
    assert opened.shape == (None, None, 3)
    assert opened.name == folder.name
    assert labels(opened.train) == [0] * 6 + [1] * 6
    assert labels(opened.test) == [0] * 3 + [1] * 3
    assert list(opened.train.paths) == sorted(opened.train.paths)
    assert len(opened.train) == 12


def test_only_files_with_the_extension_of_an_image_are_read(folder):
    train = folder / "train" / "cat"
    for path in list(train.iterdir()):
        path.unlink()
    pixels = gradient_image(8, 8)
    for name, file_format in {
        "a.JPG": "JPEG",
        "b.jpeg": "JPEG",
        "c.Png": "PNG",
        "d.bmp": "BMP",
        "e.GIF": "GIF",
        "f wörd \t'.png": "PNG",
        "g.jpg": "PNG",  # a PNG file in spite of its name
    }.items():
        (train / name).write_bytes(encode(pixels, file_format))
    for name in (".hidden.png", "._a.JPG", "notes.txt", "Thumbs.db", "png"):
        (train / name).write_text("not an image")
    (train / "folder.png").mkdir()
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "README").write_text("no class")
    (train / os.fsdecode(b"h\xff.png")).write_bytes(encode(pixels, "PNG"))
    (train / "i.png").symlink_to(train / "c.Png")
    split = data.image_folder(folder).train
    assert [split.describe(i).rpartition("/")[2] for i in range(9)] == [
        *("a.JPG", "b.jpeg", "c.Png", "d.bmp", "e.GIF", "f wörd \t'.png"),
        *("g.jpg", "h\\xff.png", "i.png"),
    ]
    assert labels(split) == [0] * 9 + [1] * 6


def test_class_folders_may_be_links_and_their_names_need_not_be_utf_8(folder):
    for split in ("train", "val"):
        (folder / split / os.fsdecode(b"\xe9t\xe9")).symlink_to(folder / split / "cat")
    opened = data.image_folder(folder)
    assert opened.class_names == (*CLASSES, "\\xe9t\\xe9")
    assert labels(opened.test) == [0] * 3 + [1] * 3 + [2] * 3


def remove(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (remove(at), at.rmdir()), "must be a folder that exists"),
        (
            lambda at: (remove(at), at.rmdir(), at.write_text("")),
            r"Received: a file, .*\(--data-dir\)",
        ),
        (remove, "one folder of images for each class. Received: nothing in"),
        (lambda at: remove(at / "train"), "train must have one folder of images"),
        (
            lambda at: [path.unlink() for path in at.rglob("*.png")],
            r"train must have images .*: cat, dog without images \(in .*: nothing in",
        ),
        (lambda at: remove(at / "train" / "dog"), "Received: dog without images"),
        (
            lambda at: [
                path.rename(path.with_suffix(".heic"))
                for path in (at / "val" / "cat").iterdir()
            ],
            r"\.jpg, .*Received: cat without images \(in the first: .*/val/cat/000"
            r"\.heic\)\. Add images, or remove",
        ),
        (
            lambda at: (remove(at / "val" / "dog"), (at / "val" / "dog").rmdir()),
            "the same classes. Received: dog without validation images",
        ),
        (
            lambda at: write_image_folder(at / "val", ("eel", "fox"), 1),
            "the same classes. Received: eel, fox without training images",
        ),
    ],
)
def test_the_error_says_what_is_wrong_with_a_folder(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        data.image_folder(folder)


@pytest.mark.fast
def test_a_class_of_one_image_cannot_be_split(tmp_path):
    write_image_folder(tmp_path, ("cat",), 2)
    write_image_folder(tmp_path, ("dog",), 1)
    with pytest.raises(ValueError, match=r"at least 2 images.*Received: 1 in dog of"):
        data.image_folder(tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


DAMAGE = {
    "truncated": (truncate, "Invalid PNG data"),
    "empty": (lambda path: path.write_bytes(b""), "Input is empty"),
    "text": (lambda path: path.write_text("hello"), "Unknown image file format"),
    "vanished": (lambda path: path.unlink(), "No such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "directory"),
    "stripe": (
        lambda path: path.write_bytes(encode(gradient_image(2, 90), "PNG")),
        "more than 16 times as long as wide",
    ),
}


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [
        *((kind, None) for kind in DAMAGE),
        # A crop of a stripe is not too long to be trained on.
        *((kind, Augmentation()) for kind in DAMAGE if kind != "stripe"),
    ],
)
def test_a_bad_file_is_named_when_it_is_read(folder, kind, augmentation):
    damage, reason = DAMAGE[kind]
    split = data.image_folder(folder).train
    damage(folder / "train" / "dog" / "002.png")
    batches = split.batches(4, data.Shuffling(0), PREPROCESSING, augmentation)
    message = rf"Received: .*train/dog/002\.png \(.*{reason}.*\) of 12\. .*--skip-bad"
    with pytest.raises(ValueError, match=message), data.report_bad_files(split):
        list(batches)
    with pytest.raises(ValueError, match=message):
        split.check()


def test_other_bad_files_are_counted(folder):
    for name in ("dog/001", "cat/003", "dog/000"):
        truncate(folder / "train" / f"{name}.png")
    with pytest.raises(ValueError, match=r"cat/003\.png \(.*\) and 2 others of 12"):
        data.image_folder(folder).train.check()


def small_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False
    )
    return model


def test_a_bad_file_is_named_in_an_error_of_keras(folder):
    opened = data.image_folder(folder)
    truncate(folder / "train" / "cat" / "004.png")
    truncate(folder / "val" / "dog" / "001.png")
    model = small_model()
    batches = opened.train.batches(4, None, PREPROCESSING)
    with (
        pytest.raises(ValueError, match=r"cat/004\.png"),
        data.report_bad_files(opened.train),
    ):
        model.fit(batches, shuffle=False, verbose=0)
    with (
        pytest.raises(ValueError, match=r"dog/001"),
        data.report_bad_files(opened.test),
    ):
        model.evaluate(opened.test.batches(4, None, PREPROCESSING), verbose=0)


@pytest.mark.slow
def test_a_bad_file_is_named_in_an_error_of_keras_on_jax(folder):
    truncate(folder / "train" / "cat" / "004.png")
    code = """
import keras
from bn_keras import data
from bn_keras.images.preprocessing import Preprocessing
split = data.image_folder(".").train
model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
try:
    with data.report_bad_files(split):
        batches = split.batches(4, None, Preprocessing((8, 8)))
        model.fit(batches, shuffle=False, verbose=0)
except ValueError as error:
    print(keras.backend.backend(), error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("jax Every image must be readable")
    assert "train/cat/004.png" in done.stdout


def test_bad_files_can_be_skipped_and_are_listed(folder):
    complete = data.image_folder(folder)
    truncate(folder / "train" / "dog" / "002.png")
    truncate(folder / "val" / "cat" / "000.png")
    opened = data.load("image_folder", folder, bad_files="skip")
    assert [name.rpartition(folder.name)[2] for name in opened.skipped] == [
        "/train/dog/002.png",
        "/val/cat/000.png",
    ]
    assert list(opened.train.paths) == list(np.delete(complete.train.paths, 8))
    assert labels(opened.train) == [0] * 6 + [1] * 5
    assert len(opened.test) == 5
    assert not complete.skipped


def test_a_class_of_only_bad_files_is_an_error(folder):
    for path in (folder / "val" / "dog").iterdir():
        truncate(path)
    with pytest.raises(ValueError, match=r"dog, all of whose files are damaged.*002"):
        data.image_folder(folder, bad_files="skip")
