"""Training on folders whose pictures change, move and are damaged in between."""

import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from command_line_calls import run
from image_files import encode, write_image_folder

from bn_keras import data
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.training import preparation, run_record, train
from bn_keras.training.recipes import BN_MLP

CLASSES = ("cat", "dog")
RECIPE = replace(
    BN_MLP,
    epochs=2,
    batch_size=16,
    preprocessing=Preprocessing((8, 8)),
    distortion=Augmentation(),
)


class StopAt(keras.callbacks.Callback):
    """Raises an error in a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def write_pictures(folder):
    """Write the same pictures wherever the folder is."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 4)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                path = folder / split / name / f"{number:03}.jpeg"
                path.write_bytes(encode(pixels, "JPEG"))
    return folder


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("uninterrupted") / "pictures")
    return train(RECIPE, data.image_folder(folder), verbose=0)[0].get_weights()


def workdir(tmp_path):
    (tmp_path / "run").mkdir(exist_ok=True)
    return tmp_path / "run"


def interrupt(pictures, tmp_path):
    """Train until the second epoch, and return the folder of the run."""
    folder = workdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, data.image_folder(pictures), folder, [StopAt(7)], verbose=0)
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.98) - 2])


def test_a_damaged_picture_is_found_before_the_first_step(pictures, tmp_path):
    cut(pictures / "train" / "dog" / "007.jpeg")
    with pytest.raises(ValueError, match=r"dog/007\.jpeg .*--skip-bad-files"):
        train(RECIPE, data.image_folder(pictures), workdir(tmp_path), [StopAt(0)])
    cut(pictures / "val" / "cat" / "001.jpeg")
    with pytest.raises(ValueError, match=r"val/cat/001\.jpeg"):
        train(RECIPE, data.image_folder(pictures), workdir(tmp_path), [StopAt(0)])


def test_pictures_are_decoded_once_until_they_change(pictures, monkeypatch):
    decoded = []
    from bn_keras.data import bad_files

    decode_all = bad_files._decode_all
    monkeypatch.setattr(
        bad_files,
        "_decode_all",
        lambda split, numbered, *rest: (
            decoded.append(len(split.unchecked())) or decode_all(split, numbered, *rest)
        ),
    )
    for expected in ([80], [80]):
        data.image_folder(pictures).train.check()
        assert decoded == expected
    path = pictures / "train" / "cat" / "000.jpeg"
    path.write_bytes(path.read_bytes() + b"\0")
    data.image_folder(pictures).train.check()
    assert decoded == [80, 1]


@pytest.mark.parametrize("skipped", [True, False])
def test_a_run_continues_without_a_picture_that_was_damaged_or_removed(
    pictures, tmp_path, skipped, uninterrupted
):
    folder = interrupt(pictures, tmp_path)
    path = pictures / "train" / "cat" / "003.jpeg"
    if skipped:
        cut(path)
    else:
        path.unlink()
    opened = data.image_folder(pictures, "skip" if skipped else "error")
    assert len(opened.train) == 79
    message = r"continues without 1 file that .*train/cat/003\.jpeg"
    with pytest.warns(UserWarning, match=message):
        model, history = train(RECIPE, opened, folder, verbose=0)
    assert len(history["loss"]) == 2
    assert run_record.read_for_model(folder / "bn-mlp.keras").examples == 80
    # One picture of eighty is another one in the second epoch.
    weights = model.get_weights()
    differences = [
        np.abs(w - v).max() for w, v in zip(weights, uninterrupted, strict=True)
    ]
    assert max(differences) > 0
    # The same command finds the run finished.
    assert train(RECIPE, opened, folder, [StopAt(0)], verbose=0)[1] == history
    path.write_bytes(encode(np.zeros((24, 24, 3), np.uint8), "JPEG"))
    with pytest.raises(ValueError, match="training examples: others by their names"):
        train(RECIPE, data.image_folder(pictures), folder, verbose=0)


@pytest.mark.filterwarnings("always:the run continues")
def test_the_command_says_where_it_resumes_though_pictures_are_missing(
    pictures, tmp_path, capsys
):
    preprocessing = Preprocessing((24, 24))
    recipe = replace(BN_MLP, epochs=3, batch_size=20, preprocessing=preprocessing)
    opened = data.image_folder(pictures)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, opened, workdir(tmp_path), [StopAt(9)], verbose=0)
    (pictures / "train" / "cat" / "003.jpeg").unlink()
    command = (
        *("train", "bn-mlp", "--data", "image_folder", "--data-dir", pictures),
        *("--workdir", workdir(tmp_path), "--batch-size", 20, "--image-size", 24),
    )
    status, _, error = run(capsys, *command, "--epochs", 1)
    assert status == 2
    assert error.startswith("bn-keras: error: The number of epochs must be at least 2")
    status, _, error = run(capsys, *command, "--epochs", 3)
    assert status == 0
    assert "bn-keras: warning: the run continues without 1 file that " in error
    assert "bn-keras: resumes after step 8 of 3 epochs of 4 steps\n" in error


def test_a_renamed_folder_continues_bit_for_bit(pictures, tmp_path, uninterrupted):
    folder = interrupt(pictures, tmp_path)
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    pictures.rename(moved)
    model, _ = train(RECIPE, data.image_folder(moved), folder, verbose=0)
    for weight, expected in zip(model.get_weights(), uninterrupted, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("same_sizes", [True, False])
def test_swapped_class_folders_are_refused(pictures, tmp_path, same_sizes):
    if same_sizes:
        draw = np.random.default_rng(0)
        for path in (pictures / "train").rglob("*.jpeg"):
            pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            path.with_suffix(".bmp").write_bytes(encode(pixels, "BMP"))
            path.unlink()
    folder = interrupt(pictures, tmp_path)
    cat, dog = (pictures / "train" / name for name in CLASSES)
    cat.rename(tmp_path / "other")
    dog.rename(cat)
    (tmp_path / "other").rename(dog)
    with pytest.raises(ValueError, match=r"files changed, among them train/cat/"):
        train(RECIPE, data.image_folder(pictures), folder, verbose=0)


def test_another_data_set_is_refused_and_new_pictures_wait_for_the_next_run(
    pictures, tmp_path, uninterrupted
):
    folder = interrupt(pictures, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    for path in (other / "train" / "cat").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(ValueError, match=r"40 of 80 files missing.*--restart"):
        train(RECIPE, data.image_folder(other), folder, verbose=0)
    source = pictures / "train" / "cat" / "003.jpeg"
    shutil.copy(source, source.with_name("0035.jpeg"))
    with pytest.warns(UserWarning, match=r"not used, as added .*cat/0035\.jpeg"):
        model, _ = train(RECIPE, data.image_folder(pictures), folder, verbose=0)
    for weight, expected in zip(model.get_weights(), uninterrupted, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_many_pictures_are_checked_while_the_first_epoch_runs(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparation, "MANY", 5)
    cut(pictures / "train" / "dog" / "007.jpeg")
    # Of a crop of the first rows, the end of the file is not decoded.
    recipe = replace(RECIPE, epochs=10_000, distortion=Augmentation(area=(0.01, 0.02)))
    with pytest.raises(ValueError, match=r"dog/007\.jpeg"):
        train(recipe, data.image_folder(pictures), workdir(tmp_path), verbose=0)
    good = data.image_folder(pictures, "skip")
    train(RECIPE, good, verbose=0)
    assert not good.train.unchecked().size


def test_epochs_are_validated_on_val_and_not_on_test(pictures):
    shutil.copytree(pictures / "val", pictures / "test")
    for path in (pictures / "test" / "cat").iterdir():
        path.unlink()
    write_image_folder(pictures / "new", ("cat",), 20, (24, 24), "JPEG")
    (pictures / "test" / "cat").rmdir()
    (pictures / "new" / "cat").rename(pictures / "test" / "cat")
    opened = data.image_folder(pictures)
    assert (len(opened.validation), len(opened.test)) == (8, 24)
    _, history = train(replace(RECIPE, epochs=1), opened, verbose=0)
    assert (history["val_accuracy"][0] * 8) % 1 == 0
