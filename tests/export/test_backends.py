"""Models of Keras' JAX backend are exported by another process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from export_checks import LoadedExport, image_model

from bn_keras.export import other_backends, read_manifest
from bn_keras.export.options import ExportOptions
from bn_keras.images.preprocessing import Preprocessing

PROGRAM = """
import sys
from pathlib import Path

import keras
import numpy as np

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.images.preprocessing import Preprocessing

assert keras.backend.backend() == "jax"
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((6, 6, 3), name="image"),
        keras.layers.Conv2D(4, 3, use_bias=False),
        BatchNormalization(momentum=0.5),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax", name="scores"),
    ]
)
draw = np.random.default_rng(0)
model(draw.normal(1, 2, (64, 6, 6, 3)), training=True)
folder = Path(sys.argv[1])
path = export_saved_model(
    model,
    folder / "m",
    version=3,
    labels=["a", "b", "c"],
    preprocessing=Preprocessing(scale=(1.0, 2.0, 3.0)),
    top_k=2,
)
print(path)
images = draw.random((2, 6, 6, 3)).astype("float32")
np.savez(folder / "outputs.npz", images=images, outputs=np.array(model(images)))
"""


@pytest.mark.slow
def test_a_model_of_the_jax_backend_can_be_exported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    assert path == str(tmp_path / "m" / "3")
    loaded = LoadedExport(path)
    with np.load(tmp_path / "outputs.npz") as arrays:
        actual = loaded(image=arrays["images"])["scores"]
        np.testing.assert_allclose(actual, arrays["outputs"], atol=1e-6)
    manifest = read_manifest(path)
    assert manifest["labels"] == ["a", "b", "c"]
    assert manifest["preprocessing"]["scale"] == [1.0, 2.0, 3.0]
    assert manifest["compared"]["differences"]["serving_default"]["scores"] < 1e-5
    assert loaded.signatures["classify"].outputs["scores"].tensor_shape.dim[1].size == 2


def test_a_model_that_cannot_be_loaded_is_reported_with_advice(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    message = r"must load with Keras' TensorFlow backend.*Received: .*no_such_module"
    with pytest.raises(ValueError, match=message):
        other_backends._load_model(tmp_path / "model.keras", ["no_such_module"])


def test_the_other_process_exports_from_the_files_that_it_is_given(
    tmp_path, monkeypatch
):
    def run(command, **_):
        assert command[:3] == [sys.executable, "-m", "bn_keras.export.other_backends"]
        other_backends._main(Path(command[3]))

    monkeypatch.setattr(subprocess, "run", run)
    options = ExportOptions(["a", "b", "c"], Preprocessing(scale=(1.0, 2.0, 3.0)))

    def export():
        return other_backends.export_in_subprocess(
            image_model(), tmp_path / "m", 3, options
        )

    path = export()
    assert path == tmp_path / "m" / "3"
    manifest = read_manifest(path)
    assert manifest["labels"] == ["a", "b", "c"]
    assert manifest["preprocessing"]["scale"] == [1.0, 2.0, 3.0]
    differences = manifest["compared"]["differences"]
    assert differences["serving_default"]["scores"] < 1e-5
    assert differences["classify"].keys() == {"scores", "classes"}
    with pytest.raises(FileExistsError, match="Version 3 is already in"):
        export()


class KilledProcess:
    """A process that was killed after it had written to standard error."""

    returncode = -9
    stderr = "first\nlast line\n"


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, OSError, "ended with status -9: last line"),
        ('{"type": "FileExistsError", "message": "taken"}', FileExistsError, "taken"),
        ('{"type": "ValueError", "message": "no"}', ValueError, "no"),
    ],
)
def test_an_error_of_the_other_process_is_raised(
    tmp_path, monkeypatch, result, error, message
):
    def run(command, **_):
        if result is not None:
            (Path(command[-1]) / "result.json").write_text(result)
        return KilledProcess()

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(error, match=message):
        other_backends.export_in_subprocess(
            image_model(), tmp_path / "m", None, ExportOptions()
        )
