"""ImageNet (ILSVRC 2012), in its original folders or of TensorFlow Datasets."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

from bn_keras.data.bad_files import BadFiles
from bn_keras.data.data_set import Data
from bn_keras.data.folders import (
    check_folder,
    describe_ignored,
    folder_data,
)
from bn_keras.data.layouts import list_classes, list_images, readable_name
from bn_keras.data.records_reader import records_data
from bn_keras.data.shards import Records

SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
# Kaggle's archive has the images below these folders.
NESTINGS = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")


def imagenet(
    directory: str | os.PathLike[str] | None = None, bad_files: BadFiles = "error"
) -> Data:
    """Read ImageNet: 1,281,167 training and 50,000 validation images, 1,000 classes.

    Args:
        directory: Either the folder of the original images: `train/<wnid>/*.JPEG`, and
            `val/` with the same folders, or with all files and Kaggle's
            `LOC_val_solution.csv` beside or above it. Kaggle's own folders
            `ILSVRC/Data/CLS-LOC/` may enclose both. Or the `data_dir` of TensorFlow
            Datasets, with `imagenet2012/<version>/`.
        bad_files: As in `image_folder`.

    Returns:
        `Data` with images of any size. The classes are sorted by wnid. Their names are
        those of `LOC_synset_mapping.txt` if that file exists, otherwise the wnids.

    Raises:
        ValueError: If the folder holds neither.

    Reference:
        Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge".
    """
    if directory is None:
        raise ValueError(
            "`directory` must be the folder of ImageNet, which is downloaded from "
            "image-net.org or Kaggle after an agreement to its terms. Received: "
            "directory=None. Give the folder (--data-dir)."
        )
    directory = check_folder(directory)
    if (info_path := _find_dataset_info(directory)) is not None:
        return _read_tensorflow_datasets(info_path, bad_files)
    for base in (directory / nesting for nesting in NESTINGS):
        if (base / "train").is_dir():
            break
    else:
        raise ValueError(
            "`directory` must hold train/<wnid>/ and val/, or imagenet2012/<version>/ "
            f"of TensorFlow Datasets. Received: {directory}, which holds neither. Name "
            "another folder (--data-dir)."
        )
    ignored: Counter[str] = Counter()
    train = list_classes(base / "train", ignored)
    if not (base / "val").is_dir():
        raise ValueError(
            f"`directory` must hold val/ beside train/. Received: {base} without val/. "
            "Put the validation images there."
        )
    paths = list_images(os.fsencode(base / "val"), ignored, recurse=False)
    if paths:
        test = _group_by_class(base, paths)
    else:
        test = list_classes(base / "val", ignored)
    return folder_data(
        "imagenet",
        train,
        test,
        bad_files,
        _class_names(base),
        root=base,
        notes=describe_ignored(ignored),
    )


def _find_in_or_above(base: Path, name: str) -> Path | None:
    """Return the file of that name in `base` or up to three levels above."""
    # Kaggle's archive has its tables three levels above the images.
    folders = (base, *base.resolve().parents[:3])
    return next((f / name for f in folders if (f / name).is_file()), None)


def _group_by_class(base: Path, paths: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the validation images of each class, as Kaggle's table lists them."""
    table = _find_in_or_above(base, SOLUTION)
    if table is None:
        raise ValueError(
            f"The images in {base / 'val'} must be in one folder for each class, or "
            f"have {SOLUTION} beside or above them. Received: neither. Add one of them."
        )
    with table.open(newline="") as file:
        # The prediction is the wnid, then four sides of a box, for each box.
        wnids = {
            row["ImageId"].encode(): row["PredictionString"].split()[0].encode()
            for row in csv.DictReader(file)
        }
    by_name = {Path(os.fsdecode(path)).stem.encode(): path for path in paths}
    if by_name.keys() != wnids.keys():
        difference = sorted(by_name.keys() ^ wnids.keys())[0]
        where = "only in the table" if difference in wnids else "only in the folder"
        raise ValueError(
            f"{table} and {base / 'val'} must name the same images. Received: "
            f"{readable_name(difference)} {where}. Download both again."
        )
    classes = {}
    for name, path in sorted(by_name.items()):
        classes.setdefault(wnids[name], []).append(path)
    return classes


def _class_names(base: Path) -> dict[str, str] | None:
    mapping = _find_in_or_above(base, MAPPING)
    if mapping is None:
        return None
    lines = mapping.read_text().splitlines()
    names = {wnid: name for wnid, _, name in (line.partition(" ") for line in lines)}
    # The bird and the machine are both "crane".
    counts = Counter(names.values())
    return {
        wnid: f"{name} ({wnid})" if counts[name] > 1 else name
        for wnid, name in names.items()
    }


def _find_dataset_info(directory: Path) -> Path | None:
    """Return the newest version's description by TensorFlow Datasets, if any."""
    paths = [
        path
        for pattern in ("", "*/", "imagenet2012/*/")
        for path in directory.glob(pattern + "dataset_info.json")
        if path.resolve().parent.name.replace(".", "").isdigit()
    ]
    return max(
        paths,
        key=lambda path: [int(x) for x in path.resolve().parent.name.split(".")],
        default=None,
    )


def _read_tensorflow_datasets(path: Path, bad_files: BadFiles) -> Data:
    """Read the TFRecord files of TensorFlow Datasets, without that package."""
    try:
        info = json.loads(path.read_text())
        splits = {split["name"]: split["shardLengths"] for split in info["splits"]}
        names = (path.parent / "label.labels.txt").read_text().split()
        if info["fileFormat"] != "tfrecord":
            raise ValueError(f"fileFormat={info['fileFormat']!r}")
        records = []
        for name in ("train", "validation"):
            counts = [int(length) for length in splits[name]]
            stem = f"{info['name']}-{name}.tfrecord"
            files = [
                path.parent / f"{stem}-{index:05}-of-{len(counts):05}"
                for index in range(len(counts))
            ]
            records.append(
                Records(files, counts, (None, None, 3), features=("image", "label"))
            )
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must describe imagenet2012 with train and validation as TFRecord "
            f"files, as tensorflow_datasets prepares it. Received: {error!r}. Prepare "
            "it again."
        ) from None
    train, test = records
    return records_data("imagenet", train, test, tuple(names), bad_files)
