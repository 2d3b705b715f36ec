"""Export a model of Keras' JAX or PyTorch backend, in a process that has TensorFlow's.

Knows how a model and an error travel between two processes; nothing of graphs.
"""

import builtins
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from bn_keras.export import checking
from bn_keras.export.contract import contract_of
from bn_keras.folding import fold_batch_normalization
from bn_keras.images.preprocessing import Preprocessing


def export_elsewhere(model, contract, samples, settings):
    """Save a model, and export it in another process.

    Layers of modules that can be imported are found there; those of the script that
    runs are not. The export is compared with what the model answers here.

    Args:
        model: a Keras model.
        contract: its `Contract`.
        samples: flat list of input arrays to compare on.
        settings: the other arguments of `export_saved_model`, as JSON holds them.

    Returns:
        The path of the version, a string.

    Raises:
        Exception: what was raised there, of the same built-in type, in one line.
    """
    reference = checking.answers(model, contract, samples)
    with tempfile.TemporaryDirectory(prefix="bn-keras-export-") as folder:
        folder = Path(folder)
        model.save(folder / "model.keras")
        for kind, arrays in (("samples", samples), ("reference", reference)):
            # float32 holds every bfloat16, of which NumPy's files know nothing.
            arrays = [
                x.astype("float32") if x.dtype.name == "bfloat16" else x for x in arrays
            ]
            np.savez(folder / f"{kind}.npz", *arrays)
        settings = {**settings, "modules": sorted(_modules(model))}
        (folder / "settings.json").write_text(json.dumps(settings))
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(folder)],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            result = json.loads((folder / "result.json").read_text())
        except (OSError, ValueError):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise OSError(
                "The process that exports with Keras' TensorFlow backend ended with "
                f"status {done.returncode}: {last}"
            ) from None
    if "path" in result:
        return result["path"]
    raise getattr(builtins, result["type"])(result["message"])


def _modules(model):
    layers = model._flatten_layers(include_self=True, recursive=True)
    found = {type(layer).__module__ for layer in layers}
    return {name for name in found if name.split(".")[0] not in ("keras", "__main__")}


def _main(folder):
    from bn_keras.export.pipeline import export_here

    settings = json.loads((folder / "settings.json").read_text())
    try:
        model = _load(folder / "model.keras", settings.pop("modules"))
        folding = fold_batch_normalization(model)
        given = settings.pop("preprocessing")
        contract = contract_of(
            model,
            folding.model,
            given and Preprocessing(**given),
            settings.pop("labels"),
            settings.pop("top_k"),
        )
        samples, reference = _arrays(folder)
        path = export_here(
            model, folding, contract, **settings, samples=samples, reference=reference
        )
        result = {"path": str(path)}
    except Exception as error:
        message = " ".join(str(error).split())
        kinds = [kind.__name__ for kind in type(error).__mro__]
        known = next(kind for kind in kinds if hasattr(builtins, kind))
        result = {"type": known, "message": message}
    (folder / "result.json").write_text(json.dumps(result))


def _load(path, modules):
    try:
        for name in modules:
            importlib.import_module(name)
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(
            "A model of another backend must load with Keras' TensorFlow backend: put "
            "its own layers into a module that can be imported, and register them "
            f"with `keras.saving.register_keras_serializable`. Received: {error}"
        ) from None


def _arrays(folder):
    for kind in ("samples", "reference"):
        with np.load(folder / f"{kind}.npz") as arrays:
            yield [arrays[f"arr_{number}"] for number in range(len(arrays))]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
