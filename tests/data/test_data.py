"""Data sets by name: their contents and their errors."""

import gzip
import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest

from bn_keras import data

pytestmark = pytest.mark.fast
NAMES = [
    f"{split}-{kind}"
    for split in ("train", "t10k")
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def small_mnist(tmp_path):
    """Four IDX files of 6 images of 2x3 pixels, two of them gzipped."""
    images = np.arange(36).reshape(6, 2, 3) * 7
    for name in NAMES:
        content = idx(images if "images" in name else np.arange(6))
        if name.startswith("t10k"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


# Recorded from the arrays that scikit-learn's `load_digits` gives, split the same way.
DIGITS_SHA256 = {
    "train": (
        "af1cfa41b5ce0bbb856e882eea5b675d57b11d74276dc09528bb1b5bca1b926d",
        "c31c6c9a4b0b3e6adf01aa5262d8da4a3742847c38c977fed673b71586b0f6c1",
    ),
    "test": (
        "c43628ac8df97c327708e6055f623c6c9707d97e58499fddb8d7af289b1b50a7",
        "706323aadbd0629ca0c1dfb6dc02ddf390fcfbf02f0e1c15e1cb3fc81f82ce38",
    ),
}


@pytest.mark.parametrize("name", DIGITS_SHA256)
def test_the_bundled_digits_never_change(name):
    split = getattr(data.digits(), name)
    assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int64)
    checksums = tuple(
        hashlib.sha256(array.tobytes()).hexdigest()
        for array in (split.images, split.labels)
    )
    assert checksums == DIGITS_SHA256[name]


def test_every_fifth_digit_is_a_test_example():
    digits = data.digits()
    # The file begins with the digits from 0 to 9, in this order, three times.
    assert digits.test.labels[:6].tolist() == [0, 5, 0, 5, 0, 5]
    assert digits.train.labels[:8].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert digits.class_names == tuple("0123456789")


def test_the_license_of_the_digits_is_beside_their_file():
    folder = Path(data.__file__).parent
    notice = (folder / "optical_digits.txt").read_text()
    content = (folder / "optical_digits.csv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() in notice
    assert "Creative Commons Attribution 4.0" in notice


def test_plain_and_gzipped_idx_files_are_read(small_mnist):
    mnist = data.mnist(small_mnist)
    expected = np.arange(36).reshape(6, 2, 3, 1) * 7 / 255
    for split in (mnist.train, mnist.test):
        np.testing.assert_allclose(split.images, expected, rtol=1e-6)
        np.testing.assert_array_equal(split.labels, np.arange(6))


def test_binary_images_are_zeros_and_ones(small_mnist):
    binary = data.mnist(small_mnist, binary=True).train.images
    np.testing.assert_array_equal(np.ravel(binary), np.arange(36) * 7 > 127)


def test_without_a_directory_keras_downloads(monkeypatch):
    pair = (np.zeros((2, 28, 28), np.uint8), np.zeros(2, np.uint8))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (pair, pair))
    assert data.load("mnist").train.images.shape == (2, 28, 28, 1)


def test_a_failed_download_suggests_the_folder(monkeypatch):
    def load_data():
        raise Exception("URL fetch failure on https://...: None -- no route")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(ValueError, match=r"Cannot download MNIST: URL.*\(--data-dir\)"):
        data.load("mnist")


def test_training_and_test_images_of_different_sizes_are_an_error(small_mnist):
    path = small_mnist / "train-images-idx3-ubyte"
    path.write_bytes(idx(np.zeros((6, 3, 2))))
    with pytest.raises(ValueError, match=r"one size\. Received: \(3, 2\).* \(2, 3\)"):
        data.mnist(small_mnist)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "Received: neither"),
        (lambda path: path.write_bytes(b""), "Received: an empty file"),
        (lambda path: path.write_bytes(b"PNG and so on"), "Received: 504e4720"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "Received: 31 values"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"x"),
            "Received: 37 values",
        ),
        (lambda path: path.write_bytes(idx(np.zeros((2, 2, 3)))), "Received: 2 images"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:12]),
            r"train-images-idx3-ubyte must have 3 sizes .* Received: 8 bytes",
        ),
        (
            # Six times three is what the two negative sizes multiply to.
            lambda path: path.write_bytes(
                path.read_bytes()[:8] + np.array([-2, -3], ">i4").tobytes() + bytes(36)
            ),
            r"train-images-idx3-ubyte must have sizes of 1 .* Received: 6 x -2 x -3",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "Cannot read .*Is a directory"),
    ],
)
def test_a_bad_idx_file_is_named(small_mnist, damage, message):
    damage(small_mnist / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match=message):
        data.mnist(small_mnist)


def test_a_truncated_gzip_file_is_named(small_mnist):
    path = small_mnist / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"Cannot read .*t10k-labels-idx1-ubyte\.gz"):
        data.mnist(small_mnist)


def test_an_unknown_data_set_is_an_error():
    with pytest.raises(ValueError, match=r"digits, mnist, .*\. Received: name='cifar'"):
        data.load("cifar")


def test_the_bundled_digits_take_no_directory(tmp_path):
    with pytest.raises(ValueError, match="must be None for 'digits'"):
        data.load("digits", tmp_path)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_data_sets_without_image_files_cannot_skip_bad_ones(name):
    with pytest.raises(ValueError, match=r"without image files\. .*Leave it out"):
        data.load(name, bad_files="skip")


@pytest.mark.parametrize("name", data.DATA_SETS)
def test_bad_files_must_be_error_or_skip(name, tmp_path):
    with pytest.raises(ValueError, match=r"one of error, skip\. .*'ignore'"):
        data.load(name, tmp_path, bad_files="ignore")


@pytest.mark.parametrize("name", ["image_folder", "records"])
def test_data_sets_in_folders_need_a_directory(name):
    with pytest.raises(ValueError, match=r"must be a folder.*None\. .*\(--data-dir\)"):
        data.load(name)


def test_imagenet_without_a_directory_says_where_to_get_it():
    with pytest.raises(ValueError, match=r"image-net.org or Kaggle.*\(--data-dir\)"):
        data.load("imagenet")
