"""The steps of an export: build the graph, write, compare, describe and publish it."""

import gc
import platform
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version as installed_version
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bn_keras.export import checking, publishing, server_files, signatures
from bn_keras.export.calibration import load_calibration
from bn_keras.export.contract import Contract, make_contract
from bn_keras.export.determinism import refuse_training_mode
from bn_keras.export.options import ExportOptions
from bn_keras.export.reduced_precision import describe_quantization, use_bfloat16
from bn_keras.export.samples import draw_samples, flatten_samples
from bn_keras.folding import FoldingResult, fold_batch_normalization
from bn_keras.quantization import quantize


class FoldedModel(NamedTuple):
    """A folded model, its contract, and a flat list of inputs to compare it on."""

    folding: FoldingResult
    contract: Contract
    samples: list[np.ndarray]


def fold(model: keras.Model, options: ExportOptions, samples: Any) -> FoldedModel:
    """Fold a model and find out what clients send to it.

    Args:
        model: The Keras model that is exported.
        options: How to export it.
        samples: Inputs in the structure that the model takes; None for random ones.
    """
    # With samples of the caller, random ones may be no inputs of the model.
    folding = fold_batch_normalization(model, check=samples is None)
    refuse_training_mode(model)
    contract = make_contract(model, folding.model, options)
    if samples is None:
        samples = draw_samples(contract)
    else:
        samples = flatten_samples(samples, contract)
    return FoldedModel(folding, contract, samples)


def export_with_tensorflow(
    model: keras.Model,
    directory: str | PathLike[str],
    version: int | None,
    options: ExportOptions,
    samples: Any = None,
    reference: Sequence[np.ndarray] | None = None,
    calibration: Any = None,
) -> Path:
    """Export a model of Keras' TensorFlow backend.

    Args:
        model: The Keras model that is exported.
        directory: Folder of the model's versions; created if missing.
        version: The number of the version, or None for the next one.
        options: How to export the model.
        samples: Inputs in the structure that the model takes; None for random ones.
        reference: The model's outputs for the samples, if they are known.
        calibration: What an int8 export is calibrated with.

    Returns:
        The path of the new version.
    """
    folding, contract, arrays = fold(model, options, samples)
    computing, quantization = folding.model, None
    tolerances = checking.tolerances(folding.model, contract, options.tolerance)
    if options.precision == "int8":
        model = computing = quantize(
            folding.model,
            load_calibration(calibration, contract),
            accuracy=options.accuracy,
            method=options.calibration_method,
            reduce_range=options.reduce_range,
        )
        # The report compares it with the float model. The file is compared with it.
        quantization, reference = describe_quantization(computing), None
        tolerances = checking.int8_tolerances(contract, options.tolerance)
        for warning in quantization["warnings"]:
            warnings.warn(warning, stacklevel=3)
    if reference is None:
        reference = _run_model(model, contract, arrays, samples is None)
    if options.precision == "bfloat16":
        use_bfloat16(computing)
        tolerances = checking.tolerances(computing, contract, options.tolerance)
    exported = signatures.build_graph(computing, contract, options.constants)
    facts = {
        "model": model.name,
        "inputs": {key: spec._asdict() for key, spec in contract.inputs.items()},
        "outputs": {key: spec._asdict() for key, spec in contract.outputs.items()},
        "signatures": {key: x.to_dict() for key, x in exported.signatures.items()},
        "preprocessing": contract.preprocessing and asdict(contract.preprocessing),
        "labels": contract.labels,
        "folding": [asdict(entry) for entry in folding.report.entries],
        "warnings": folding.report.warnings,
        "precision": options.precision,
        "quantization": quantization,
        "weights": exported.checksum,
        "libraries": {
            **{x: installed_version(x) for x in ("keras", "tensorflow", "numpy")},
            "python": platform.python_version(),
        },
    }
    # The largest models fit into memory three times at most. Models are full of
    # reference cycles.
    del folding, computing
    gc.collect()
    name = Path(directory).resolve().name

    def write(folder: Path) -> list[Path]:
        with publishing.file_errors(directory):
            signatures.write_saved_model(folder, exported)
            server_files.write_warm_up(
                folder, name, contract, exported.signatures, arrays
            )
        differences = checking.compare(
            folder, model, contract, arrays, reference, tolerances
        )
        compared = {"examples": len(arrays[0]), "differences": differences}
        with publishing.file_errors(directory):
            server_files.write_manifest(folder, {**facts, "compared": compared})
            # These belong to the folder of versions. Users edit them, so they stay.
            return server_files.write_server_files(directory, overwrite=False)

    return publishing.publish(directory, version, write)


def _run_model(
    model: keras.Model, contract: Contract, arrays: Sequence[np.ndarray], random: bool
) -> list[np.ndarray]:
    import tensorflow as tf

    try:
        return checking.run_model(model, contract, arrays)
    except tf.errors.OpError as error:
        if not random:
            raise
        reason = " ".join(error.message.split())
        raise ValueError(
            "The model must accept the samples. Received: random ones, for which it "
            f"raised: {reason}. Pass `samples=` with inputs of the model"
        ) from None
