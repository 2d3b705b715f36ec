"""Models of Keras' JAX backend, exported by a process of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from export_checks import Loaded

from bn_keras import fold_batch_normalization
from bn_keras.export import other_backends, read_manifest
from bn_keras.export.contract import contract_of
from bn_keras.export.samples import draw_samples

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
np.savez(folder / "answers.npz", images=images, answer=np.array(model(images)))
"""


def test_a_model_of_the_jax_backend_exports_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (where,) = done.stdout.splitlines()
    assert where == str(tmp_path / "m" / "3")
    loaded = Loaded(where)
    with np.load(tmp_path / "answers.npz") as arrays:
        answer = loaded(image=arrays["images"])["scores"]
        np.testing.assert_allclose(answer, arrays["answer"], atol=1e-6)
    manifest = read_manifest(where)
    assert manifest["labels"] == ["a", "b", "c"]
    assert manifest["preprocessing"]["scale"] == [1.0, 2.0, 3.0]
    assert manifest["compared"]["differences"]["serving_default"]["scores"] < 1e-5
    assert loaded.signatures["classify"].outputs["scores"].tensor_shape.dim[1].size == 2


def test_a_model_that_does_not_load_elsewhere_is_one_error(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    message = r"must load with Keras' TensorFlow backend.*Received: .*no_such_module"
    with pytest.raises(ValueError, match=message):
        other_backends._load(tmp_path / "model.keras", ["no_such_module"])


class Elsewhere:
    """A process that ends without a result, or leaves one."""

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
def test_an_error_elsewhere_is_raised_here(monkeypatch, result, error, message):
    def run(command, **_):
        if result is not None:
            (Path(command[-1]) / "result.json").write_text(result)
        return Elsewhere()

    monkeypatch.setattr(subprocess, "run", run)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    folded = fold_batch_normalization(model).model
    contract = contract_of(model, folded)
    samples = draw_samples(contract)
    with pytest.raises(error, match=message):
        other_backends.export_elsewhere(
            model, contract, samples, {"preprocessing": None}
        )
