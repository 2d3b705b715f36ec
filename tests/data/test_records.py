"""TFRecord shards: writing with `convert`, reading with `records`, damaged ones."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, gradient_image, write_image_folder

from bn_keras import data
from bn_keras.images.preprocessing import Preprocessing

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 training and 12 test images of three classes, some of them JPEG files."""
    folder = tmp_path_factory.mktemp("source")
    write_image_folder(folder / "train", CLASSES, 20)
    write_image_folder(folder / "val", CLASSES, 4)
    for name in CLASSES:
        path = folder / "train" / name / "000.png"
        path.write_bytes(encode(gradient_image(9, 12), "JPEG"))
    return folder


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    """A folder of records, with 5 training shards."""
    folder = tmp_path_factory.mktemp("converted") / "records"
    data.convert(data.image_folder(source), folder, shards=5)
    return folder


@pytest.fixture
def written(converted, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(converted, tmp_path / "folder" / "records")


def examples(path):
    return [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


def test_every_file_is_written_once_with_its_own_bytes(source, written):
    for split, folder in (("train", "train"), ("test", "val")):
        contents = {}
        for shard in sorted(written.glob(f"{split}-*")):
            for example in examples(shard):
                name = example["image/filename"].bytes_list.value[0].decode()
                content = example["image/encoded"].bytes_list.value[0]
                label = example["image/class/label"].int64_list.value[0]
                assert name not in contents
                assert CLASSES[label] == name[0]
                contents[name] = content
        expected = {
            str(path.relative_to(source / folder)): path.read_bytes()
            for path in (source / folder).rglob("*.png")
        }
        assert contents == expected


def test_every_shard_holds_all_classes_and_is_described(converted, written):
    assert [path.name for path in converted.parent.iterdir()] == ["records"]
    description = json.loads((written / "dataset.json").read_text())
    assert description["name"] == "source0"
    assert description["class_names"] == list(CLASSES)
    assert description["shape"] == [None, None, 3]
    assert list(description["splits"]["train"]) == [
        f"train-{index:05}-of-00005.tfrecord" for index in range(5)
    ]
    assert list(description["splits"]["test"]) == ["test-00000-of-00001.tfrecord"]
    for shards in description["splits"].values():
        for name, shard in shards.items():
            labels = Counter(
                str(example["image/class/label"].int64_list.value[0])
                for example in examples(written / name)
            )
            assert shard["examples_per_class"] == labels
            assert len(labels) == 3
            assert shard["examples"] == labels.total() == 12
            assert shard["bytes"] == (written / name).stat().st_size


def test_the_same_seed_writes_the_same_bytes(source, tmp_path):
    opened = data.image_folder(source)
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        data.convert(opened, tmp_path / name, shards=2, seed=seed)
    one, same, other = (
        (tmp_path / name / "train-00001-of-00002.tfrecord").read_bytes()
        for name in ("one", "same", "other")
    )
    assert one == same
    assert one != other


def test_progress_counts_every_example(source, tmp_path):
    counts = []
    data.convert(data.image_folder(source), tmp_path / "x", progress=counts.append)
    assert counts == list(range(1, 73))


def collect(split, preprocessing=None):
    images, labels = zip(
        *split.batches(8, preprocessing=preprocessing).as_numpy_iterator(), strict=True
    )
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("kind", ["uint8", "float", "grey"])
def test_arrays_are_read_back(kind, tmp_path):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, 6, 5, 1 if kind == "grey" else 3))
    images = images.astype("uint8")
    if kind == "float":
        images = images.astype("float32") / 255
    arrays = data.Arrays(images, np.arange(20) % 4)
    examples = data.Data("random", arrays, arrays, tuple("abcd"))
    back = data.convert(examples, tmp_path / "records", shards=3)
    assert back.shape == images.shape[1:]
    assert back.class_names == tuple("abcd")
    order = np.random.default_rng(0).permutation(20)
    images, labels = collect(back.train)
    expected, expected_labels = collect(arrays)
    # PNG files hold bytes, and bytes and floats are rescaled with different rounding.
    atol = 1e-7 if kind == "float" else 0
    np.testing.assert_allclose(images, expected[order], rtol=0, atol=atol)
    np.testing.assert_array_equal(labels, expected_labels[order])


def test_pixels_that_a_png_file_would_change_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"8 bits.*float32 values that are"):
        data.convert(data.digits(), tmp_path / "records")


def test_records_cannot_be_converted_again(written, tmp_path):
    with pytest.raises(ValueError, match=r"Files or Arrays\. Received: Records"):
        data.convert(data.records(written), tmp_path / "again")


@pytest.mark.parametrize("shards", [0, 61])
def test_more_shards_than_examples_are_an_error(source, tmp_path, shards):
    with pytest.raises(ValueError, match=rf"from 1 to 60.*shards={shards}"):
        data.convert(data.image_folder(source), tmp_path / "x", shards=shards)


def test_a_folder_that_is_not_empty_is_an_error_and_stays_as_it_is(source, tmp_path):
    (tmp_path / "note").write_text("mine")
    for directory in (tmp_path, tmp_path / "note"):
        with pytest.raises(ValueError, match="must not exist, or be an empty folder"):
            data.convert(data.image_folder(source), directory)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_an_empty_folder_can_be_written_to(source, tmp_path):
    data.convert(data.image_folder(source), tmp_path)
    assert len(data.records(tmp_path).train) == 60


@pytest.fixture
def damaged(tmp_path):
    write_image_folder(tmp_path / "train", CLASSES, 5)
    write_image_folder(tmp_path / "val", CLASSES, 2)
    for name in ("train/b/003.png", "train/c/004.png", "val/a/000.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-40])
    return tmp_path


def test_a_bad_file_stops_the_conversion_and_leaves_no_folder(damaged):
    with pytest.raises(ValueError, match=r"train/(b/003|c/004)\.png \(Invalid PNG"):
        data.convert(data.image_folder(damaged), damaged / "records")
    assert sorted(path.name for path in damaged.iterdir()) == ["train", "val"]


def test_bad_files_can_be_left_out(damaged):
    opened = data.image_folder(damaged)
    back = data.convert(opened, damaged / "records", shards=2, bad_files="skip")
    assert sorted(name.removeprefix(f"{damaged}/") for name in back.skipped) == [
        "train/b/003.png",
        "train/c/004.png",
        "val/a/000.png",
    ]
    assert (len(back.train), len(back.test)) == (13, 5)
    back.train.check()
    description = json.loads((damaged / "records" / "dataset.json").read_text())
    assert description["skipped"] == list(back.skipped)


def shard(folder):
    return folder / "train-00002-of-00005.tfrecord"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: shard(at).unlink(), "No such file.*train-00002-of-00005"),
        (
            lambda at: shard(at).write_bytes(shard(at).read_bytes()[:-1]),
            r"train-00002-of-00005.tfrecord has \d+ bytes instead of \d+\. Copy or",
        ),
        (lambda at: (at / "dataset.json").unlink(), "No such file.*dataset.json"),
        (lambda at: (at / "dataset.json").write_text("{"), "Expecting property name"),
        (lambda at: (at / "dataset.json").write_text("{}"), "'splits'"),
    ],
)
def test_a_missing_or_truncated_file_is_named_when_the_records_are_opened(
    written, damage, message
):
    damage(written)
    with pytest.raises(ValueError, match=message):
        data.records(written)


PREPROCESSING = Preprocessing((8, 8))


def flip_bit(path, record, offset):
    """Change one byte of one record, `offset` bytes after its beginning."""
    content = bytearray(path.read_bytes())
    start = 0
    for _ in range(record):
        start += int.from_bytes(content[start : start + 8], "little") + 16
    content[start + offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("offset", [1, 30])
def test_a_damaged_record_is_named(written, offset):
    opened = data.records(written)
    flip_bit(shard(written), 7, offset)
    batches = opened.train.batches(8, data.Shuffling(0), PREPROCESSING)
    message = r"record 7 of .*train-00002-of-00005\.tfrecord \(corrupted record.*4 oth"
    with pytest.raises(ValueError, match=message), data.report_bad_files(opened.train):
        list(batches)
    with pytest.raises(ValueError, match=message):
        opened.train.check()


def test_a_shard_that_vanishes_later_is_named(written):
    opened = data.records(written)
    shard(written).unlink()
    batches = opened.train.batches(8, None, PREPROCESSING)
    message = r"record 0 of .*train-00002.*\(No such file.*and 11 others of 60"
    with pytest.raises(ValueError, match=message), data.report_bad_files(opened.train):
        list(batches)


def test_a_shard_with_fewer_records_than_described_is_named(written):
    opened = data.records(written)
    content = shard(written).read_bytes()
    last = 0
    for _ in range(11):
        last += int.from_bytes(content[last : last + 8], "little") + 16
    shard(written).write_bytes(content[:last])
    batches = opened.train.batches(8, data.Shuffling(1), PREPROCESSING)
    message = r"record 11 of .*train-00002.*\(missing\) of 60"
    with pytest.raises(ValueError, match=message), data.report_bad_files(opened.train):
        list(batches)


@pytest.mark.parametrize("record", [7, 0])
def test_damaged_records_can_be_skipped(written, record):
    expected, _ = collect(data.records(written).train, PREPROCESSING)
    flip_bit(shard(written), record, 30)
    opened = data.load("records", written, bad_files="skip")
    # The rest of the same shard is lost with it; 24 records come before the shard.
    assert len(opened.train) == 48 + record
    assert [name.partition(" of ")[0] for name in opened.skipped] == [
        f"record {number}" for number in range(record, 12)
    ]
    images, _ = collect(opened.train, PREPROCESSING)
    lost = range(24 + record, 36)
    np.testing.assert_array_equal(images, np.delete(expected, lost, axis=0))
    shuffled = opened.train.batches(6, data.Shuffling(1), PREPROCESSING)
    assert sum(len(labels) for _, labels in shuffled) == 48 + record
    opened.train.check()


def test_a_record_without_an_image_is_named_and_can_be_skipped(tmp_path, written):
    # Well-formed records, as others may write them.
    path = shard(written)
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    for index, content in ((3, b"not an image"), (9, None)):
        example = tf.train.Example.FromString(records[index])
        if content is None:
            del example.features.feature["image/encoded"]
        else:
            example.features.feature["image/encoded"].bytes_list.value[0] = content
        records[index] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    description = json.loads((written / "dataset.json").read_text())
    description["splits"]["train"][path.name]["bytes"] = path.stat().st_size
    (written / "dataset.json").write_text(json.dumps(description))
    opened = data.records(written)
    with pytest.raises(ValueError, match=r"record 3 of .*00002.*\(Unknown.*1 other of"):
        opened.train.check()
    opened = data.records(written, bad_files="skip")
    assert len(opened.train) == len(collect(opened.train, PREPROCESSING)[0]) == 58
