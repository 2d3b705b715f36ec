"""Export a model of Keras' JAX or PyTorch backend, in a process with TensorFlow's."""

import builtins
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from bn_keras.export import checking, pipeline, publishing
from bn_keras.export.calibration import load_calibration
from bn_keras.export.options import ExportOptions
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.keras_graph import read_graph
from bn_keras.quantization.calibration_data import read_examples


def export_in_subprocess(
    model: keras.Model,
    directory: str | PathLike[str],
    version: int | None,
    options: ExportOptions,
    samples: Any = None,
    calibration: Any = None,
) -> Path:
    """Save a model, and export it in another process.

    That process imports the modules of the model's layers. It cannot import the script
    that is running here. The export is compared with the outputs that the model has
    in this process.

    Args:
        model: The Keras model that is exported.
        directory: Folder of the model's versions.
        version: The number of the version, or None for the next one.
        options: How to export the model.
        samples: Inputs in the structure that the model takes; None for random ones.
        calibration: What an int8 export is calibrated with.

    Returns:
        The path of the new version.

    Raises:
        Exception: The error of the other process, of the same built-in type, in one
            line.
    """
    folding, contract, arrays = pipeline.fold(model, options, samples)
    reference = checking.run_model(model, contract, arrays)
    options = replace(
        options, labels=contract.labels, preprocessing=contract.preprocessing
    )
    with tempfile.TemporaryDirectory(prefix="bn-keras-export-") as folder:
        folder = Path(folder)
        with publishing.file_errors(folder):
            model.save(folder / "model.keras")
        kinds = {"samples": arrays, "reference": reference}
        if options.precision == "int8":
            examples = load_calibration(calibration, contract)
            kinds["calibration"] = read_examples(examples, read_graph(folding.model))
        for kind, values in kinds.items():
            # NumPy's files cannot hold bfloat16, but float32 holds all its values.
            values = [
                x.astype("float32") if x.dtype.name == "bfloat16" else x for x in values
            ]
            np.savez(folder / f"{kind}.npz", *values)
        settings = {
            "directory": str(directory),
            "version": version,
            "options": asdict(options),
            "structure": contract.structure,
            "modules": sorted(_find_modules(model)),
        }
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
        return Path(result["path"])
    raise getattr(builtins, result["type"])(result["message"])


def _find_modules(model: keras.Model) -> set[str]:
    layers = model._flatten_layers(include_self=True, recursive=True)
    modules = {type(layer).__module__ for layer in layers}
    return {name for name in modules if name.split(".")[0] not in ("keras", "__main__")}


def _main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    try:
        model = _load_model(folder / "model.keras", settings["modules"])
        options = settings["options"]
        if options["preprocessing"] is not None:
            options["preprocessing"] = Preprocessing(**options["preprocessing"])
        samples, reference = (_load_arrays(folder, x) for x in ("samples", "reference"))
        calibration = None
        if options["precision"] == "int8":
            calibration = _load_arrays(folder, "calibration")
            calibration = tree.map_structure(
                calibration.__getitem__, settings["structure"]
            )
        path = pipeline.export_with_tensorflow(
            model,
            settings["directory"],
            settings["version"],
            ExportOptions(**options),
            tree.map_structure(samples.__getitem__, settings["structure"]),
            reference,
            calibration,
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


def _load_arrays(folder: Path, kind: str) -> list[np.ndarray]:
    with np.load(folder / f"{kind}.npz") as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays))]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
