"""ImageNet (ILSVRC 2012), from its original folders or as TensorFlow Datasets has it.

Knows the names of their files; no model and no training.
"""

import csv
import json
import os
from collections import Counter
from pathlib import Path

from bn_keras.data.folders import (
    check_folder,
    folder_data,
    list_classes,
    list_pictures,
    readable_name,
)
from bn_keras.data.shards import Records, records_data

SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
# Kaggle's archive has its pictures below folders of its own.
NESTINGS = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")


def imagenet(directory=None, bad_files="error"):
    """ImageNet: 1,281,167 pictures to train on, 50,000 to validate on, 1,000 classes.

    Args:
        directory: the original folders: `train/<wnid>/*.JPEG`, and `val/` with the
            same folders, or with all files and Kaggle's `LOC_val_solution.csv` beside
            or above it; with or without Kaggle's `ILSVRC/Data/CLS-LOC/`. Or the
            `data_dir` of TensorFlow Datasets with `imagenet2012/<version>/`.
        bad_files: as in `image_folder`.

    Returns:
        `Data` with pictures of any size. Classes are in the order of their wnids;
        they are called as `LOC_synset_mapping.txt` does if it is there, else by wnid.

    Raises:
        ValueError: for folders that hold neither.

    Reference:
        Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge".
    """
    if directory is None:
        raise ValueError(
            "ImageNet must lie in a folder: it is downloaded from image-net.org or "
            "Kaggle after an agreement to its terms. Received: none; give the folder "
            "(--data-dir)"
        )
    directory = check_folder(directory)
    if (info := _prepared(directory)) is not None:
        return _read_prepared(info, bad_files)
    for base in (directory / nesting for nesting in NESTINGS):
        if (base / "train").is_dir():
            break
    else:
        raise ValueError(
            "Expected train/<wnid>/ and val/, or imagenet2012/<version>/ of TensorFlow "
            f"Datasets. Received: {directory}, which holds neither"
        )
    train = list_classes(base / "train")
    if not (base / "val").is_dir():
        raise ValueError(
            f"Expected val/ beside train/. Received: {base} without it; put the "
            "validation pictures there"
        )
    flat = list_pictures(os.fsencode(base / "val"))
    test = _labelled(base, flat) if flat else list_classes(base / "val")
    return folder_data("imagenet", train, test, bad_files, _class_names(base))


def _beside_or_above(base, name):
    """The file of that name, in `base` or as far above as Kaggle has it; or None."""
    folders = (base, *base.resolve().parents[:3])
    return next((f / name for f in folders if (f / name).is_file()), None)


def _labelled(base, paths):
    """The validation pictures of each class by Kaggle's table."""
    table = _beside_or_above(base, SOLUTION)
    if table is None:
        raise ValueError(
            f"The pictures in {base / 'val'} must lie in one folder for each class, or "
            f"have {SOLUTION} beside or above them. Received: neither"
        )
    with table.open(newline="") as file:
        # The prediction is the wnid, then four sides of a box, for each box.
        wnids = {
            row["ImageId"].encode(): row["PredictionString"].split()[0].encode()
            for row in csv.DictReader(file)
        }
    by_name = {Path(os.fsdecode(path)).stem.encode(): path for path in paths}
    if by_name.keys() != wnids.keys():
        odd = sorted(by_name.keys() ^ wnids.keys())[0]
        where = "only in the table" if odd in wnids else "only in the folder"
        raise ValueError(
            f"{table} and {base / 'val'} must name the same pictures. Received: "
            f"{readable_name(odd)} {where}"
        )
    classes = {}
    for name, path in sorted(by_name.items()):
        classes.setdefault(wnids[name], []).append(path)
    return classes


def _class_names(base):
    mapping = _beside_or_above(base, MAPPING)
    if mapping is None:
        return None
    lines = mapping.read_text().splitlines()
    names = {wnid: name for wnid, _, name in (line.partition(" ") for line in lines)}
    # The bird and the machine are both "crane".
    times = Counter(names.values())
    return {
        wnid: f"{name} ({wnid})" if times[name] > 1 else name
        for wnid, name in names.items()
    }


def _prepared(directory):
    """The description that TensorFlow Datasets left: of the newest version, or None."""
    found = [
        path
        for pattern in ("", "*/", "imagenet2012/*/")
        for path in directory.glob(pattern + "dataset_info.json")
        if path.resolve().parent.name.replace(".", "").isdigit()
    ]
    return max(
        found,
        key=lambda path: [int(x) for x in path.resolve().parent.name.split(".")],
        default=None,
    )


def _read_prepared(path, bad_files):
    """TFRecord files as `tensorflow_datasets` prepares them, read without it."""
    try:
        info = json.loads(path.read_text())
        splits = {split["name"]: split["shardLengths"] for split in info["splits"]}
        names = (path.parent / "label.labels.txt").read_text().split()
        if info["fileFormat"] != "tfrecord":
            raise ValueError(f"its fileFormat is {info['fileFormat']}")
        both = []
        for name in ("train", "validation"):
            counts = [int(length) for length in splits[name]]
            stem = f"{info['name']}-{name}.tfrecord"
            files = [
                path.parent / f"{stem}-{index:05}-of-{len(counts):05}"
                for index in range(len(counts))
            ]
            both.append(
                Records(files, counts, (None, None, 3), features=("image", "label"))
            )
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must describe imagenet2012 with train and validation as TFRecord "
            f"files, as tensorflow_datasets prepares it. Received: {error!r}"
        ) from None
    return records_data("imagenet", both[0], both[1], tuple(names), bad_files)
