"""The steps of an export: build the graph, write, compare, describe and publish it."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version as installed_version
from os import PathLike
from pathlib import Path

import keras
import numpy as np

from bn_keras.export import checking, publishing, server_files, signatures
from bn_keras.export.contract import Contract
from bn_keras.folding import FoldingResult


def export_with_tensorflow(
    model: keras.Model,
    folding: FoldingResult,
    contract: Contract,
    directory: str | PathLike[str],
    version: int | None,
    samples: Sequence[np.ndarray],
    tolerance: float | None,
    reference: Sequence[np.ndarray] | None = None,
) -> Path:
    """Export a model of Keras' TensorFlow backend.

    Args:
        model: The Keras model that is exported.
        folding: The result of folding it.
        contract: Its contract.
        directory: Folder of the model's versions; created if missing.
        version: The number of the version, or None for the next one.
        samples: A flat list of input arrays to compare the export on.
        tolerance: As for `export_saved_model`.
        reference: The model's outputs for the samples, if they are known.

    Returns:
        The path of the new version.
    """
    graph_def, graph_signatures = signatures.build_graph(folding.model, contract)
    name = Path(directory).resolve().name
    facts = {
        "model": model.name,
        "inputs": {key: spec._asdict() for key, spec in contract.inputs.items()},
        "outputs": {key: spec._asdict() for key, spec in contract.outputs.items()},
        "signatures": {key: x.to_dict() for key, x in graph_signatures.items()},
        "preprocessing": contract.preprocessing and asdict(contract.preprocessing),
        "labels": contract.labels,
        "folding": [asdict(entry) for entry in folding.report.entries],
        "weights": server_files.checksum(graph_def),
        "libraries": {
            **{x: installed_version(x) for x in ("keras", "tensorflow", "numpy")},
            "python": platform.python_version(),
        },
    }

    def write(folder: Path) -> None:
        signatures.write_saved_model(folder, graph_def, graph_signatures)
        server_files.write_warm_up(folder, name, contract, graph_signatures)
        differences = checking.compare(
            folder, model, contract, samples, tolerance, reference
        )
        compared = {"examples": len(samples[0]), "differences": differences}
        server_files.write_manifest(folder, {**facts, "compared": compared})
        # These belong to the folder of versions. Users edit them, so they stay.
        server_files.write_server_files(directory, overwrite=False)

    return publishing.publish(directory, version, write)
