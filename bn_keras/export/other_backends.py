"""Export a model of Keras' JAX or PyTorch backend, in a process with TensorFlow's."""

import builtins
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.export import checking
from bn_keras.export.contract import Contract, make_contract
from bn_keras.folding import fold_batch_normalization
from bn_keras.images.preprocessing import Preprocessing


def export_in_subprocess(
    model: keras.Model,
    contract: Contract,
    samples: Sequence[np.ndarray],
    settings: Mapping[str, Any],
) -> str:
    """Save a model, and export it in another process.

    That process imports the modules of the model's layers. It cannot import the script
    that is running here. The export is compared with the outputs that the model has
    in this process.

    Args:
        model: The Keras model that is exported.
        contract: Its contract.
        samples: A flat list of input arrays to compare the export on.
        settings: The other arguments of `export_saved_model`, serializable as JSON.

    Returns:
        The path of the new version.

    Raises:
        Exception: The error of the other process, of the same built-in type, in one
            line.
    """
    reference = checking.run_model(model, contract, samples)
    with tempfile.TemporaryDirectory(prefix="bn-keras-export-") as folder:
        folder = Path(folder)
        model.save(folder / "model.keras")
        for kind, arrays in (("samples", samples), ("reference", reference)):
            # NumPy's files cannot hold bfloat16, but float32 holds all its values.
            arrays = [
                x.astype("float32") if x.dtype.name == "bfloat16" else x for x in arrays
            ]
            np.savez(folder / f"{kind}.npz", *arrays)
        settings = {**settings, "modules": sorted(_find_modules(model))}
        (folder / "settings.json").write_text(json.dumps(settings))
        process = subprocess.run(
            [sys.executable, "-m", __name__, str(folder)],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                # The script may have changed where modules are found.
                "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            result = json.loads((folder / "result.json").read_text())
        except (OSError, ValueError):
            # The process was killed, or failed before it could report an error.
            last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise OSError(
                "The process that exports with Keras' TensorFlow backend ended with "
                f"status {process.returncode}: {last_line}"
            ) from None
    if "path" in result:
        return result["path"]
    raise getattr(builtins, result["type"])(result["message"])


def _find_modules(model: keras.Model) -> set[str]:
    layers = model._flatten_layers(include_self=True, recursive=True)
    modules = {type(layer).__module__ for layer in layers}
    return {name for name in modules if name.split(".")[0] not in ("keras", "__main__")}


def _main(folder: Path) -> None:
    from bn_keras.export.pipeline import export_with_tensorflow

    settings = json.loads((folder / "settings.json").read_text())
    try:
        model = _load_model(folder / "model.keras", settings.pop("modules"))
        folding = fold_batch_normalization(model)
        preprocessing = settings.pop("preprocessing")
        contract = make_contract(
            model,
            folding.model,
            preprocessing and Preprocessing(**preprocessing),
            settings.pop("labels"),
            settings.pop("top_k"),
        )
        samples, reference = _load_arrays(folder)
        path = export_with_tensorflow(
            model, folding, contract, **settings, samples=samples, reference=reference
        )
        result = {"path": str(path)}
    except Exception as error:
        message = " ".join(str(error).split())
        # The other process knows the built-in types: report the closest one.
        type_names = [x.__name__ for x in type(error).__mro__]
        builtin = next(name for name in type_names if hasattr(builtins, name))
        result = {"type": builtin, "message": message}
    (folder / "result.json").write_text(json.dumps(result))


def _load_model(path: Path, modules: Iterable[str]) -> Any:
    try:
        for name in modules:
            importlib.import_module(name)
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(
            "A model of another backend must load with Keras' TensorFlow backend. "
            f"Received: {error}. Put custom layers into a module that can be imported, "
            "and register them with `keras.saving.register_keras_serializable`"
        ) from None


def _load_arrays(folder: Path) -> Iterator[list[np.ndarray]]:
    for kind in ("samples", "reference"):
        with np.load(folder / f"{kind}.npz") as arrays:
            yield [arrays[f"arr_{number}"] for number in range(len(arrays))]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
