"""Every kind of split: the order of its examples and its mini-batches."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, gradient_image, write_image_folder

from bn_keras import data
from bn_keras.data import orders, shards
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.training.distribution import MultiWorker

KINDS = ("arrays", "files", "records")
# Files and arrays share the code of their orders.
ORDERS = ("arrays", "records")
COUNT = 60
PREPROCESSING = Preprocessing((6, 6))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """60 examples of 5 classes; the corner of each image holds its number."""
    folder = tmp_path_factory.mktemp("splits")
    for split in ("train", "val"):
        write_image_folder(folder / "images" / split, "abcde", COUNT // 5)
    files = data.image_folder(folder / "images")
    records = data.convert(files, folder / "records", shards=6)
    return {
        "arrays": data.Arrays(
            np.stack([x for x, _ in files.train.original_images().as_numpy_iterator()]),
            files.train.labels,
        ),
        "files": files.train,
        "records": records.train,
    }


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Make shards of few examples, so that a small data set has several."""
    monkeypatch.setattr(orders, "SHARD", 10)
    monkeypatch.setattr(shards, "READERS", 3)
    monkeypatch.setattr(shards, "BUFFER", 16)


def collect(batches):
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def numbers(split, shuffling, **options):
    """Return the numbers in the corners of the images, in their order."""
    batches = split.batches(8, shuffling, Preprocessing((8, 8)), **options)
    return np.rint(collect(batches)[0][:, 0, 0, 0] * 255).astype(int)


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("within_shards", [True, False])
def test_an_epoch_holds_every_example_once(splits, kind, within_shards):
    shuffling = data.Shuffling(1, within_shards)
    assert len(splits[kind]) == COUNT
    # An epoch ends within a mini-batch.
    stream = numbers(splits[kind], shuffling, epochs=3).reshape(3, COUNT)
    for epoch, order in enumerate(stream):
        np.testing.assert_array_equal(np.sort(order), np.arange(COUNT))
        if epoch == 0:
            alone = numbers(splits[kind], shuffling)
            np.testing.assert_array_equal(order, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_stay_with_their_images(splits, kind):
    batches = splits[kind].batches(7, data.Shuffling(3), Preprocessing((8, 8)))
    images, labels = collect(batches)
    np.testing.assert_array_equal(
        np.rint(images[:, 0, 0, 0] * 255) // (COUNT / 5), labels
    )


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("within_shards", [True, False])
def test_orders_differ_between_epochs_and_between_seeds(splits, kind, within_shards):
    def order(seed, epoch):
        shuffling = data.Shuffling(seed, within_shards)
        return numbers(splits[kind], shuffling, first_epoch=epoch).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != list(range(COUNT))


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_without_shuffling_examples_keep_the_order_of_storage(splits, kind):
    np.testing.assert_array_equal(numbers(splits[kind], None), np.arange(COUNT))


@pytest.mark.parametrize("kind", ORDERS)
def test_without_shuffling_within_shards_neighbours_stay_together(splits, kind):
    def followers(epoch):
        order = numbers(
            splits[kind], data.Shuffling(1, within_shards=False), first_epoch=epoch
        )
        return set(zip(order[:-1].tolist(), order[1:].tolist(), strict=True))

    # Six shards of ten: nine pairs in each always stay, only the pairs between shards
    # change.
    assert len(followers(0) & followers(1)) >= 54
    thorough = numbers(splits[kind], data.Shuffling(1), first_epoch=1)
    pairs = set(zip(thorough[:-1].tolist(), thorough[1:].tolist(), strict=True))
    assert len(followers(0) & pairs) < 20


@pytest.mark.parametrize(
    ("kind", "within_shards"),
    [
        ("files", True),
        ("records", True),
        ("arrays", False),
        pytest.param("arrays", True, marks=pytest.mark.slow),
        pytest.param("files", False, marks=pytest.mark.slow),
        pytest.param("records", False, marks=pytest.mark.slow),
    ],
)
def test_a_stream_is_bitwise_the_same_wherever_it_begins(splits, kind, within_shards):
    shuffling = data.Shuffling(4, within_shards)

    def stream(**options):
        return list(
            splits[kind]
            .batches(
                8, shuffling, PREPROCESSING, Augmentation(), first_epoch=1, **options
            )
            .as_numpy_iterator()
        )

    complete = stream(epochs=3)
    # Full but the last: 180 examples are 22 batches of 8 and one of 4.
    assert [len(labels) for _, labels in complete] == [8] * 22 + [4]
    for first in (1, 8, 22):
        rest = stream(epochs=3, first_batch=first)
        assert len(rest) == len(complete) - first
        for batch, expected in zip(rest, complete[first:], strict=True):
            for array, expected_array in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(array, expected_array)


@pytest.mark.parametrize("kind", ORDERS)
def test_an_endless_stream_begins_with_the_finite_one(splits, kind):
    arguments = (8, data.Shuffling(4), PREPROCESSING, Augmentation())
    endless = splits[kind].batches(*arguments, epochs=None, first_batch=5).take(12)
    finite = splits[kind].batches(*arguments, epochs=3).skip(5).take(12)
    for array, expected in zip(collect(endless), collect(finite), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("kind", "batch_size", "augmentation"),
    [
        ("arrays", 8, None),
        ("records", 8, Augmentation()),
        # Of the three readers each machine needs two.
        ("records", 6, None),
        pytest.param("files", 8, None, marks=pytest.mark.slow),
        pytest.param("arrays", 8, Augmentation(), marks=pytest.mark.slow),
        pytest.param("files", 8, Augmentation(), marks=pytest.mark.slow),
    ],
)
def test_the_parts_of_several_machines_make_up_the_batches(
    splits, kind, batch_size, augmentation
):
    def stream(**options):
        shuffling = data.Shuffling(4)
        return splits[kind].batches(
            batch_size, shuffling, PREPROCESSING, augmentation, epochs=2, **options
        )

    parts = [
        list(stream(part=(i, 2), first_batch=3).as_numpy_iterator()) for i in range(2)
    ]
    for (images, labels), *shares in zip(
        stream(first_batch=3).as_numpy_iterator(), *parts, strict=True
    ):
        np.testing.assert_array_equal(images, np.concatenate([x for x, _ in shares]))
        np.testing.assert_array_equal(labels, np.concatenate([y for _, y in shares]))


@pytest.fixture
def copied_records(splits, tmp_path):
    """The records, six files, in a folder of this test's own."""
    folder = Path(splits["records"].files[0]).parent
    return data.records(shutil.copytree(folder, tmp_path / "records")).train


def cut_files(split, kept):
    """Leave nothing in the files of a split other than these."""
    for number, path in enumerate(split.files):
        if number not in kept:
            Path(path).write_bytes(b"")


def test_a_machine_reads_the_files_of_its_part_only(copied_records):
    stored = numbers(copied_records, None).tolist()
    contents = [Path(path).read_bytes() for path in copied_records.files]

    def read(machine):
        strategy = mock.Mock()
        strategy.distribute_datasets_from_function = lambda function: function(
            tf.distribute.InputContext(2, machine, 2)
        )
        devices = mock.Mock(spec=MultiWorker, strategy=strategy, replicas=2)
        batches = MultiWorker.training_input(
            devices,
            lambda part: copied_records.batches(
                8, data.Shuffling(4), Preprocessing((8, 8)), part=part
            ),
            batch_size=8,
        )
        return np.rint(collect(batches)[0][:, 0, 0, 0] * 255).astype(int).tolist()

    examples, files = [], []
    for machine in range(2):
        read_here = read(machine)
        examples += read_here
        files.append({stored.index(number) // 10 for number in read_here})
        cut_files(copied_records, files[-1])
        assert read(machine) == read_here
        for path, content in zip(copied_records.files, contents, strict=True):
            Path(path).write_bytes(content)
    assert sorted(examples) == list(range(COUNT))
    # Half of the six files, and one that both machines read a part of.
    assert max(map(len, files)) <= 4
    assert len(files[0] & files[1]) <= 1


def test_a_late_start_does_not_read_the_records_before_it(copied_records):
    arguments = (data.Shuffling(4), Preprocessing((8, 8)))
    stored = numbers(copied_records, None).tolist()
    rest = numbers(copied_records, arguments[0], first_batch=6)
    cut_files(copied_records, {stored.index(number) // 10 for number in rest})
    again = copied_records.batches(8, *arguments, first_batch=6)
    assert len(collect(again)[1]) == len(rest) == 12


def test_a_batch_that_cannot_be_divided_is_an_error(splits):
    with pytest.raises(ValueError, match=r"divisible by the 3 machines.*batch_size=8"):
        splits["arrays"].batches(8, part=(0, 3))


@pytest.mark.parametrize("kind", ORDERS)
def test_the_global_seed_does_not_matter(splits, kind):
    def stream(seed):
        keras.utils.set_random_seed(seed)
        return collect(
            splits[kind].batches(8, data.Shuffling(4), PREPROCESSING, Augmentation())
        )

    for array, expected in zip(stream(1), stream(2), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.slow
def test_another_process_gets_the_same_batches(splits, tmp_path):
    np.savez(tmp_path / "arrays.npz", splits["arrays"].images, splits["arrays"].labels)
    folders = {
        "files": splits["files"].paths[0].decode().split("/train/")[0],
        "records": splits["records"].files[0].rpartition("/")[0],
    }
    for kind, folder in folders.items():
        (tmp_path / kind).symlink_to(folder)
    code = """
import numpy as np
from bn_keras import data
from bn_keras.data import orders, shards
from bn_keras.images.preprocessing import Augmentation, Preprocessing
orders.SHARD, shards.READERS, shards.BUFFER = 10, 3, 16
for kind, split in {
    "arrays": data.Arrays(*np.load("arrays.npz").values()),
    "files": data.image_folder("files").train,
    "records": data.records("records").train,
}.items():
    preprocessing, augmentation = Preprocessing((6, 6)), Augmentation()
    batches = split.batches(
        8, data.Shuffling(9), preprocessing, augmentation, epochs=2, first_batch=2
    )
    images, labels = map(np.concatenate, zip(*batches.as_numpy_iterator()))
    np.savez(f"{kind}_expected.npz", images=images, labels=labels)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for kind, split in splits.items():
        expected = np.load(tmp_path / f"{kind}_expected.npz")
        images, labels = collect(
            split.batches(
                8,
                data.Shuffling(9),
                PREPROCESSING,
                Augmentation(),
                epochs=2,
                first_batch=2,
            )
        )
        np.testing.assert_array_equal(images, expected["images"])
        np.testing.assert_array_equal(labels, expected["labels"])


def test_the_augmentation_of_an_example_differs_between_epochs():
    split = data.Arrays(np.full((4, 8, 8, 3), 0.5, "float32"), np.arange(4))
    images, _ = collect(
        split.batches(4, data.Shuffling(1), PREPROCESSING, Augmentation(), epochs=3)
    )
    assert len({image.tobytes() for image in images}) == 12


def test_arrays_of_bytes_and_of_floats_give_the_same_inputs():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(9)
    preprocessing = Preprocessing(scale=1 / 127.5, offset=-1.0)
    for augmentation in (None, Augmentation()):
        from_bytes, from_floats = (
            collect(
                data.Arrays(images, labels).batches(
                    4, data.Shuffling(2), preprocessing, augmentation
                )
            )[0]
            for images in (pixels, (pixels / 255).astype("float32"))
        )
        np.testing.assert_allclose(from_bytes, from_floats, atol=2e-6)
        assert from_bytes.min() >= -1 - 1e-6
        assert from_bytes.max() <= 1 + 1e-6


def test_batches_follow_the_formula_of_preprocessing():
    digits = data.digits()
    preprocessing = Preprocessing(scale=1 / 127.5, offset=-1.0)
    images, labels = collect(digits.test.batches(100, preprocessing=preprocessing))
    np.testing.assert_allclose(images, digits.test.images * 2 - 1, atol=1e-6)
    np.testing.assert_array_equal(labels, digits.test.labels)


def test_original_images_keep_their_size(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for width in (8, 11):
            content = encode(gradient_image(9, width), "PNG")
            (tmp_path / split / "a" / f"{width:02}.png").write_bytes(content)
    split = data.image_folder(tmp_path).train
    pixels = [image for image, _ in split.original_images().as_numpy_iterator()]
    for image, width in zip(pixels, (8, 11), strict=True):
        np.testing.assert_allclose(image * 255, gradient_image(9, width), atol=1e-4)
    with pytest.raises(ValueError, match=r"must have a size.*\(--image-size\)"):
        split.batches(2)


@pytest.mark.parametrize("kind", ORDERS)
def test_a_late_start_does_not_compute_earlier_epochs(splits, kind):
    late = splits[kind].batches(
        10, data.Shuffling(1), PREPROCESSING, epochs=None, first_batch=6 * 10**9
    )
    _, labels = next(iter(late))
    epoch = splits[kind].batches(
        10, data.Shuffling(1), PREPROCESSING, first_epoch=10**9
    )
    np.testing.assert_array_equal(labels, next(iter(epoch))[1])


def test_check_accepts_good_examples(splits):
    for split in (*splits.values(), data.digits().test):
        split.check()


def test_splits_show_themselves(splits):
    assert repr(splits["arrays"]) == "Arrays(60 examples, 8 x 8 x 3)"
    assert repr(splits["files"]) == "Files(60 examples, ? x ? x 3)"
    assert repr(splits["records"]) == "Records(60 examples, ? x ? x 3, 6 files)"


def test_a_data_set_shows_itself_in_one_line_and_as_a_table(splits):
    names = tuple(f"<{number}>" for number in range(20))
    examples = data.Data("tiny", splits["arrays"], splits["files"], names, ("bad.png",))
    assert repr(examples) == (
        "Data('tiny', train=Arrays(60 examples, 8 x 8 x 3), "
        "test=Files(60 examples, ? x ? x 3), 20 classes, 1 skipped)"
    )
    table = examples._repr_html_().replace(' style="text-align: left"', "")
    assert "<th>train</th><td>60 examples</td>" in table
    # The names are escaped, and only the first twelve of them are shown.
    assert "<td>20: &lt;0&gt;, &lt;1&gt;, " in table
    assert "&lt;11&gt;, ...</td>" in table
    assert "<th>bad files skipped</th><td>1</td>" in table
    assert "skipped" not in data.digits()._repr_html_()


def test_an_error_that_no_file_caused_is_not_changed(splits):
    split = splits["files"]
    with pytest.raises(tf.errors.InvalidArgumentError), data.report_bad_files(split):
        tf.debugging.assert_equal(1, 2)
    with pytest.raises(json.JSONDecodeError), data.report_bad_files(split):
        json.loads("{")
