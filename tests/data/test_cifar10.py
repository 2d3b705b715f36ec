"""CIFAR-10: read from images and from the original batches, also damaged ones."""

import pickle
import shutil

import keras
import numpy as np
import pytest
from image_files import encode, gradient_image

from bn_keras import data
from bn_keras.data.cifar10_files import CLASS_NAMES

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
LABELS = np.arange(12) % 10


def batch(images, labels):
    """An original file: all red values of an image, then green, then blue."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return {b"batch_label": b"one", b"labels": list(labels), b"data": rows}


@pytest.fixture
def batches(tmp_path):
    """Five files of 12 training examples in total; the last is also the test file."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, share in enumerate(np.array_split(np.arange(12), 5), 1):
        content = pickle.dumps(batch(PIXELS[share], LABELS[share].tolist()))
        (folder / f"data_batch_{number}").write_bytes(content)
    (folder / "test_batch").write_bytes(content)
    return folder


@pytest.fixture
def pictures(tmp_path):
    for split in ("train", "test"):
        for name, pixels in zip(CLASS_NAMES, PIXELS, strict=False):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(encode(pixels, "PNG"))
    return tmp_path


@pytest.mark.fast
def test_the_original_batches_are_read(batches):
    for directory in (batches, batches.parent):
        cifar = data.cifar10(directory)
        assert cifar.train.images.dtype == np.uint8
        np.testing.assert_array_equal(cifar.train.images, PIXELS)
        np.testing.assert_array_equal(cifar.train.labels, LABELS)
        np.testing.assert_array_equal(cifar.test.images, PIXELS[-2:])
        assert cifar.class_names == CLASS_NAMES


def test_images_are_read_into_memory_in_the_order_of_keras(pictures):
    cifar = data.load("cifar10", pictures)
    assert cifar.class_names == CLASS_NAMES
    assert isinstance(cifar.train, data.Arrays)
    for split in (cifar.train, cifar.test):
        np.testing.assert_array_equal(split.images, PIXELS[:10])
        np.testing.assert_array_equal(split.labels, np.arange(10))
        assert split.images.dtype == np.uint8


def test_validation_images_are_kept_and_others_counted(pictures):
    shutil.copytree(pictures / "test", pictures / "val")
    (pictures / "val" / "cat" / "0.png").write_bytes(encode(PIXELS[11], "PNG"))
    shutil.copytree(pictures / "test", pictures / "extra")
    cifar = data.cifar10(pictures)
    np.testing.assert_array_equal(cifar.validation.images[3], PIXELS[11])
    assert len(cifar.validation) == len(cifar.test) == 10
    assert cifar.notes == ("ignored files: 10 in extra/",)


@pytest.mark.fast
def test_without_a_directory_keras_downloads(monkeypatch):
    pair = (PIXELS, LABELS[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (pair, pair))
    cifar = data.load("cifar10")
    np.testing.assert_array_equal(cifar.test.labels, LABELS)
    np.testing.assert_array_equal(cifar.train.images, PIXELS)


@pytest.mark.fast
def test_a_failed_download_suggests_the_folder(monkeypatch):
    def load_data():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(ValueError, match=r"Cannot download CIFAR-10: URL.*--data-dir"):
        data.load("cifar10")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Ran out of input"),
        (pickle.dumps(batch(PIXELS, LABELS))[:-900], "truncated"),
        (pickle.dumps({b"labels": [1]}), "data"),
        (pickle.dumps(batch(PIXELS, [1, 2])), "12 images and 2 labels"),
        (pickle.dumps(batch(PIXELS, (LABELS + 1).tolist())), "12 images and 12 labels"),
        # A pickle that would run a command.
        (b"cos\nsystem\n(S'true'\ntR.", "posix.system|os.system"),
    ],
)
def test_a_damaged_batch_is_named(batches, content, reason):
    (batches / "data_batch_3").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"Cannot read .*data_batch_3, .* Received: .*({reason})"
    ):
        data.cifar10(batches)


@pytest.mark.fast
def test_a_missing_batch_is_named(batches):
    (batches / "test_batch").unlink()
    with pytest.raises(
        ValueError, match=r"Cannot read .*test_batch, .* Received: .*No such file"
    ):
        data.cifar10(batches)


def test_an_image_of_another_size_is_named_or_skipped(pictures):
    path = pictures / "train" / "cat" / "1.png"
    path.write_bytes(encode(gradient_image(32, 31), "PNG"))
    with pytest.raises(ValueError, match=r"train/cat/1.png \(.*\[32,31,3\]"):
        data.cifar10(pictures)
    cifar = data.cifar10(pictures, bad_files="skip")
    np.testing.assert_array_equal(cifar.train.images, PIXELS[:10])
    assert [name.rpartition("/")[2] for name in cifar.skipped] == ["1.png"]
