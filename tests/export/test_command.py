"""`bn-keras export` passes labels and preprocessing to the export."""

import keras
import numpy as np
import pytest
from export_checks import image_model

from bn_keras import BatchNormalization
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


def test_constants_and_the_precision_are_options(model_file, tmp_path):
    options = ("--constants", "--precision", "float32")
    assert export(model_file, tmp_path / "m", *options) == 0
    assert not (tmp_path / "m" / "1" / "variables").exists()
    assert read_manifest(tmp_path / "m" / "1")["precision"] == "float32"


def test_warnings_are_lines_of_the_command(tmp_path, capsys):
    inputs = keras.Input((4,), name="x")
    normalization = BatchNormalization(name="far")
    model = keras.Model(inputs, keras.layers.ReLU()(normalization(inputs)))
    normalization.moving_mean.assign([1e6] * 4)
    model.save(tmp_path / "far.keras")
    export(tmp_path / "far.keras", tmp_path / "m")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("bn-keras: ") and "far" in line for line in lines)


def test_a_model_that_scales_its_pixels_gets_them_as_they_are(tmp_path):
    inputs = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    model.save(tmp_path / "scaling.keras")
    for options, scale in (((), 1.0), (("--scale", 0.5), 0.5)):
        assert export(tmp_path / "scaling.keras", tmp_path / "m", *options) == 0
        manifest = read_manifest(tmp_path / "m" / f"{2 if options else 1}")
        assert manifest["preprocessing"]["scale"] == scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "nowhere.txt"], "nowhere.txt"),
        (["--crop-fraction", "2"], "`crop_fraction` must be above 0"),
        (["--precision", "int8"], "`calibration` must be passed with precision='int8'"),
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
