"""The layouts in which people have folders of pictures."""

import re

import numpy as np
import pytest
from image_files import encode, gradient_image, write_image_folder
from PIL import Image

from bn_keras import data
from bn_keras.data.summary import summarize

pytestmark = pytest.mark.fast
CLASSES = ("cat", "dog")


def names(split, root):
    return [path.decode().removeprefix(f"{root}/") for path in split.paths]


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("Train", "VALID"), ("training", "Validation")],
)
def test_folders_of_splits_have_several_names(tmp_path, train, val):
    write_image_folder(tmp_path / train, CLASSES, 6)
    write_image_folder(tmp_path / val, CLASSES, 3)
    opened = data.image_folder(tmp_path)
    assert (len(opened.train), len(opened.test)) == (12, 6)
    assert opened.validation is None


def test_with_val_and_test_epochs_are_validated_on_val_and_models_tested_on_test(
    tmp_path,
):
    for name, count in (("train", 6), ("val", 3), ("test", 2)):
        write_image_folder(tmp_path / name, CLASSES, count)
    opened = data.image_folder(tmp_path)
    assert opened.validation is not None
    sizes = [len(s) for s in (opened.train, opened.validation, opened.test)]
    assert sizes == [12, 6, 4]
    assert "12 training, 6 validation and 4 test examples" in summarize(opened)[0]
    assert "validation=Files" in repr(opened)


@pytest.mark.parametrize("folders", [("test",), ("test", "images")])
def test_a_test_folder_without_labels_is_ignored_and_named(tmp_path, folders):
    write_image_folder(tmp_path / "train", CLASSES, 6)
    write_image_folder(tmp_path / "val", CLASSES, 3)
    unlabelled = tmp_path.joinpath(*folders)
    unlabelled.mkdir(parents=True)
    (unlabelled / "test_0.png").write_bytes(encode(gradient_image(8, 8), "PNG"))
    opened = data.image_folder(tmp_path)
    assert (len(opened.test), opened.validation) == (6, None)
    assert any(
        re.search(r"ignored test/, .*no labels \(.*test_0\.png\)", note)
        for note in summarize(opened)
    )


@pytest.mark.parametrize("folder", ["", "train"])
def test_without_other_pictures_every_tenth_is_a_test_picture(tmp_path, folder):
    write_image_folder(tmp_path / folder, CLASSES, 21)
    opened = data.image_folder(tmp_path)
    assert [path[-7:] for path in opened.test.paths] == 2 * [
        b"000.png",
        b"010.png",
        b"020.png",
    ]
    assert len(opened.train) == 36
    assert not set(opened.train.paths) & set(opened.test.paths)
    assert any("every tenth picture" in note for note in opened.notes)


def test_tiny_imagenet_is_read_as_it_unpacks(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    picture = encode(gradient_image(8, 8), "JPEG")
    for wnid in ("n1", "n2"):
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(4):
            path = root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            path.write_bytes(picture)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1")
    for name in ("val", "test"):
        (root / name / "images").mkdir(parents=True)
        for number in range(4):
            path = root / name / "images" / f"{name}_{number}.JPEG"
            path.write_bytes(picture)
    table = root / "val" / "val_annotations.txt"
    rows = [f"val_{n}.JPEG\t{'n2' if n % 2 else 'n1'}\t0\t0\t9\t9" for n in range(4)]
    table.write_text("\n".join(rows) + "\n")
    (root / "wnids.txt").write_text("n1\nn2\n")
    opened = data.image_folder(tmp_path)
    assert opened.class_names == ("n1", "n2")
    assert opened.train.labels.tolist() == [0] * 4 + [1] * 4
    assert names(opened.test, root / "val" / "images") == [
        *("val_0.JPEG", "val_2.JPEG", "val_1.JPEG", "val_3.JPEG")
    ]
    assert opened.test.labels.tolist() == [0, 0, 1, 1]
    assert any("ignored test/" in note for note in opened.notes)
    assert any("2 .txt" in note for note in opened.notes)
    table.write_text("\n".join(rows[1:]))
    with pytest.raises(ValueError, match=r"Received: val_0\.JPEG without one"):
        data.image_folder(tmp_path)
    table.write_text("\n".join([*rows, "val_9.JPEG\tn1"]))
    with pytest.raises(ValueError, match=r"in each line|Received: 'val_9\.JPEG"):
        data.image_folder(tmp_path)


def test_folders_inside_a_class_and_every_decodable_extension_are_read(tmp_path):
    write_image_folder(tmp_path, CLASSES, 4)
    nested = tmp_path / "cat" / "indoors" / "2024"
    nested.mkdir(parents=True)
    picture = encode(gradient_image(8, 8), "JPEG")
    for name in ("a.jfif", "b.JPE", "c.jpeg"):
        (nested / name).write_bytes(picture)
    (nested / "d.webp").write_bytes(encode(gradient_image(8, 8), "WEBP"))
    for name in ("e.heic", "f.tiff", "g.tiff", "Thumbs.db", "README"):
        (nested / name).write_text("")
    (nested / "up").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "__MACOSX").mkdir()
    (tmp_path / "cat" / "__MACOSX" / "._a.jpg").write_text("")
    (tmp_path / "__MACOSX").mkdir()
    opened = data.image_folder(tmp_path)
    assert opened.class_names == CLASSES
    assert len(opened.train) + len(opened.test) == 12
    (note,) = [note for note in opened.notes if "ignored" in note]
    assert note.startswith("ignored files: 2 .tiff, ")
    assert {"1 .heic", "1 .db", "1 without extension"} <= set(
        note.removeprefix("ignored files: ").split(", ")
    )


def test_a_folder_that_holds_only_the_data_set_is_opened(tmp_path):
    write_image_folder(tmp_path / "a" / "photos" / "train", CLASSES, 6)
    write_image_folder(tmp_path / "a" / "photos" / "val", CLASSES, 3)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "LICENSE").write_text("")
    assert len(data.image_folder(tmp_path).test) == 6


def test_pictures_in_no_class_and_in_other_folders_are_counted_and_named(tmp_path):
    for name, count in (("train", 6), ("val", 3), ("valid", 2), ("unlabelled", 1)):
        write_image_folder(tmp_path / name, CLASSES, count)
    picture = encode(gradient_image(8, 8), "PNG")
    for folder in (tmp_path, tmp_path / "train", tmp_path / "val"):
        (folder / "loose.png").write_bytes(picture)
    opened = data.image_folder(tmp_path)
    assert opened.class_names == CLASSES
    assert (len(opened.train), len(opened.test)) == (12, 6)
    (note,) = opened.notes
    loose = "1 in no folder of a class ({}/loose.png)"
    assert set(note.removeprefix("ignored files: ").split(", ")) == {
        *(loose.format(path) for path in (tmp_path, tmp_path / "train")),
        *(loose.format(tmp_path / "val"), "4 in valid/", "2 in unlabelled/"),
    }


def test_pictures_of_train_and_val_without_classes_are_refused(tmp_path):
    picture = encode(gradient_image(8, 8), "PNG")
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        for number in range(9):
            (tmp_path / name / f"{number}.png").write_bytes(picture)
    with pytest.raises(ValueError, match=r"train must have one folder .*train/0\.png"):
        data.image_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write_image_folder(tmp_path, ("bus", "train"), 10)
    opened = data.image_folder(tmp_path)
    assert opened.class_names == ("bus", "train")


def test_a_layout_that_is_refused_names_what_is_there(tmp_path):
    write_image_folder(tmp_path / "val", CLASSES, 3)
    with pytest.raises(ValueError, match=r"train/CLASS/ .* with val but without"):
        data.image_folder(tmp_path)
    write_image_folder(tmp_path / "train", CLASSES, 3)
    for path in (tmp_path / "val").rglob("*.png"):
        path.rename(tmp_path / "val" / f"{path.parent.name}{path.name}")
    for name in CLASSES:
        (tmp_path / "val" / name).rmdir()
    with pytest.raises(ValueError, match=r"val/cat000\.png without a class"):
        data.image_folder(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("")
    with pytest.raises(ValueError, match=r"photos/a\.jpg\. Expected train/CLASS"):
        data.image_folder(photos)


def test_the_summary_counts_sizes_and_pictures_taken_upright(tmp_path):
    write_image_folder(tmp_path, CLASSES, 6, size=(8, 12))
    upright = Image.fromarray(gradient_image(30, 40))
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.save(tmp_path / "cat" / "x.jpg", exif=exif)
    for _ in range(2):  # looked at, then from the cache
        lines = summarize(data.image_folder(tmp_path))
        assert lines[1] == "width x height 12 x 8 to 40 x 30 pixels"
        assert lines[2].startswith("1 picture must be rotated by the EXIF orientation")


def test_a_note_is_shown_in_notebooks(tmp_path):
    write_image_folder(tmp_path, CLASSES, 6)
    assert "every tenth" in data.image_folder(tmp_path)._repr_html_()
    assert np.all(data.image_folder(tmp_path).train.listing.sizes > 0)
