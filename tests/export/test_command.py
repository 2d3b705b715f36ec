"""`bn-keras export` passes labels and preprocessing to the export."""

import numpy as np
import pytest
from export_checks import image_model

from bn_keras.cli import command_line
from bn_keras.export import read_manifest


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    image_model(classes=10).save(path)
    return path


def export(model_file, folder, *options):
    arguments = ["export", str(model_file), str(folder), *map(str, options)]
    return command_line.main(arguments)


def test_the_labels_of_a_file_and_the_preprocessing_are_exported(model_file, tmp_path):
    names = [f"name {place}" for place in range(10)]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    status = export(
        *(model_file, tmp_path / "m", "--labels", tmp_path / "labels.txt"),
        *("--scale", 1 / 127.5, "--offset", "-1", "--crop-fraction", 0.875),
    )
    assert status == 0
    manifest = read_manifest(tmp_path / "m" / "1")
    assert manifest["labels"] == names
    settings = ("scale", "offset", "crop_fraction")
    actual = [manifest["preprocessing"][x] for x in settings]
    np.testing.assert_allclose(actual, [1 / 127.5, -1, 0.875], rtol=1e-12)


def test_the_labels_of_a_data_set_are_exported(model_file, tmp_path):
    assert export(model_file, tmp_path / "m", "--labels", "digits") == 0
    assert read_manifest(tmp_path / "m" / "1")["labels"] == list("0123456789")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "nowhere.txt"], "nowhere.txt"),
        (["--crop-fraction", "2"], "`crop_fraction` must be above 0"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(
    model_file, tmp_path, capsys, options, message
):
    assert export(model_file, tmp_path / "m", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()
