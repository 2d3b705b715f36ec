"""ImageNet: its folders, Kaggle's table, the files of TensorFlow Datasets."""

import json

import pytest
import tensorflow as tf
from image_files import encode, gradient_image, write_image_folder

from bn_keras import data

WNIDS = ("n01440764", "n02012849", "n03126707")
MAPPING = (
    "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn09999999 more\n"
)


@pytest.fixture
def folders(tmp_path):
    write_image_folder(tmp_path / "train", WNIDS, 4, file_format="JPEG")
    write_image_folder(tmp_path / "val", WNIDS, 2, file_format="JPEG")
    return tmp_path


def labels(split):
    return [label for _, label in split.original_images().as_numpy_iterator()]


def flatten(folders):
    """Rearrange `val` as in Kaggle's archive, and return the table of classes."""
    rows = ["ImageId,PredictionString"]
    numbers = iter((5, 1, 4, 2, 6, 3))
    for wnid in WNIDS:
        for path in sorted((folders / "val" / wnid).iterdir()):
            name = f"ILSVRC2012_val_{next(numbers):08}"
            path.rename(folders / "val" / f"{name}.JPEG")
            rows.append(f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8 ")
        (folders / "val" / wnid).rmdir()
    return "\n".join(rows) + "\n"


def test_original_folders_are_read_and_named_by_wnid(folders):
    opened = data.load("imagenet", folders)
    assert opened.name == "imagenet"
    assert opened.class_names == WNIDS
    assert labels(opened.train) == [0] * 4 + [1] * 4 + [2] * 4
    assert labels(opened.test) == [0, 0, 1, 1, 2, 2]


@pytest.mark.fast
def test_class_names_come_from_the_mapping_and_are_unique(folders):
    (folders / "LOC_synset_mapping.txt").write_text(MAPPING)
    assert data.imagenet(folders).class_names == (
        "tench, Tinca tinca",
        "crane (n02012849)",
        "crane (n03126707)",
    )


@pytest.mark.parametrize("nesting", ["", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("directory", ["outside", "inside"])
def test_kaggles_table_assigns_images_to_classes(
    folders, tmp_path_factory, nesting, directory
):
    root = tmp_path_factory.mktemp("kaggle")
    (root / "LOC_val_solution.csv").write_text(flatten(folders))
    (root / "LOC_synset_mapping.txt").write_text(MAPPING)
    base = root / nesting
    base.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val"):
        (folders / name).rename(base / name)
    opened = data.imagenet(root if directory == "outside" else base)
    # Numbers 5 and 1 are of the first class and so on, sorted within a class.
    assert [path[-10:] for path in opened.test.paths] == [
        b"%05d.JPEG" % number for number in (1, 5, 2, 4, 3, 6)
    ]
    assert labels(opened.test) == [0, 0, 1, 1, 2, 2]
    assert opened.class_names[0] == "tench, Tinca tinca"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "train").rename(at / "training"), "holds neither"),
        (lambda at: (at / "val").rename(at / "validation"), "must hold val/ beside"),
        (lambda at: flatten(at), "have LOC_val_solution.csv beside or above them"),
        (
            lambda at: (
                (at / "LOC_val_solution.csv").write_text(flatten(at)),
                (at / "val" / "ILSVRC2012_val_00000004.JPEG").unlink(),
            ),
            "Received: ILSVRC2012_val_00000004 only in the table",
        ),
        (
            lambda at: (
                (at / "LOC_val_solution.csv").write_text(flatten(at)),
                (at / "val" / "new.JPEG").write_bytes(b""),
            ),
            "Received: new only in the folder",
        ),
        (
            lambda at: write_image_folder(at / "train", ("n0",), 1),
            "n0 without validation images",
        ),
    ],
)
def test_the_error_says_what_is_wrong_with_the_folders(folders, damage, message):
    damage(folders)
    with pytest.raises(ValueError, match=message):
        data.imagenet(folders)


def test_bad_files_can_be_skipped(folders):
    (folders / "train" / WNIDS[1] / "002.jpeg").write_bytes(b"not an image")
    opened = data.load("imagenet", folders, bad_files="skip")
    assert len(opened.train) == 11
    assert opened.skipped[0].endswith(f"train/{WNIDS[1]}/002.jpeg")


def feature(value):
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


# Written by tensorflow_datasets 4.9.10.
INFO = {
    "fileFormat": "tfrecord",
    "moduleName": "tensorflow_datasets.datasets.imagenet2012",
    "name": "imagenet2012",
    "splits": [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": "train",
            "numBytes": "63144",
            "shardLengths": ["4", "3"],
        },
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": "validation",
            "numBytes": "15630",
            "shardLengths": ["3"],
        },
    ],
    "version": "5.1.0",
}


@pytest.fixture
def prepared(tmp_path):
    for version in ("5.1.0", "5.0.0", "incomplete.3XNVV0_6.0.0"):
        folder = tmp_path / "imagenet2012" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps(INFO))
    folder = tmp_path / "imagenet2012" / "5.1.0"
    (folder / "label.labels.txt").write_text("\n".join(WNIDS) + "\n")
    for split in INFO["splits"]:
        number, shards = 0, split["shardLengths"]
        for index, length in enumerate(shards):
            name = f"imagenet2012-{split['name']}.tfrecord"
            path = folder / f"{name}-{index:05}-of-{len(shards):05}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for _ in range(int(length)):
                    values = {
                        "image": encode(gradient_image(8, 8 + number), "JPEG"),
                        "label": number % 3,
                        "file_name": b"x_%d.JPEG" % number,
                    }
                    features = {key: feature(value) for key, value in values.items()}
                    example = tf.train.Example(
                        features=tf.train.Features(feature=features)
                    )
                    writer.write(example.SerializeToString())
                    number += 1
    return tmp_path


def test_files_of_tensorflow_datasets_are_read(prepared):
    for directory in (
        prepared,
        prepared / "imagenet2012",
        prepared / "imagenet2012/5.1.0",
    ):
        opened = data.load("imagenet", directory)
        assert opened.class_names == WNIDS
        assert labels(opened.train) == [0, 1, 2, 0, 1, 2, 0]
        assert labels(opened.test) == [0, 1, 2]
    widths = [image.shape[1] for image, _ in opened.train.original_images()]
    assert widths == list(range(8, 15))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fileFormat": "array_record"}, "fileFormat=.array_record"),
        ({"splits": INFO["splits"][:1]}, "KeyError.*validation"),
        ({"name": "other"}, r"no file .*other-train\.tfrecord-00000-of-00002"),
    ],
)
def test_other_files_of_tensorflow_datasets_are_an_error(prepared, change, message):
    path = prepared / "imagenet2012" / "5.1.0" / "dataset_info.json"
    path.write_text(json.dumps(INFO | change))
    with pytest.raises(ValueError, match=message):
        data.imagenet(prepared)


def test_a_damaged_record_of_tensorflow_datasets_can_be_skipped(prepared):
    path = next((prepared / "imagenet2012" / "5.1.0").glob("*train*-00000-*"))
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, record in enumerate(records):
            writer.write(b"" if number == 2 else record)
    opened = data.imagenet(prepared, bad_files="skip")
    assert labels(opened.train) == [0, 1, 0, 1, 2, 0]
    assert "record 2 of" in opened.skipped[0]
