"""The steps of an export, in order: graph, files, comparison, manifest, rename.

Knows the other rooms; none of the work that they do.
"""

import platform
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path

from bn_keras.export import checking, publishing, server_files, signatures


def export_here(
    model, folding, contract, directory, version, samples, tolerance, reference=None
):
    """Build, write, check and publish, on Keras' TensorFlow backend.

    Args:
        model: the Keras model as it was given.
        folding: what it was folded into, a `FoldingResult`.
        contract: its `Contract`.
        directory: folder of the model's versions; made if missing.
        version: an int, or None for the next one.
        samples: flat list of input arrays to compare on.
        tolerance: as `export_saved_model` takes it.
        reference: the model's answers to the samples, if known.

    Returns:
        The `pathlib.Path` of the new version.
    """
    graph_def, found = signatures.build(folding.model, contract)
    name = Path(directory).resolve().name
    facts = {
        "model": model.name,
        "inputs": {key: spec._asdict() for key, spec in contract.inputs.items()},
        "outputs": {key: spec._asdict() for key, spec in contract.outputs.items()},
        "signatures": {key: one.described() for key, one in found.items()},
        "preprocessing": contract.preprocessing and asdict(contract.preprocessing),
        "labels": contract.labels,
        "folding": [asdict(entry) for entry in folding.report.entries],
        "weights": server_files.checksum(graph_def),
        "libraries": {
            **{one: installed(one) for one in ("keras", "tensorflow", "numpy")},
            "python": platform.python_version(),
        },
    }

    def write(folder):
        signatures.write(folder, graph_def, found)
        server_files.write_warm_up(folder, name, contract, found)
        differences = checking.compare(
            folder, model, contract, samples, tolerance, reference
        )
        examples = len(samples[0])
        compared = {"examples": examples, "differences": differences}
        server_files.write_manifest(folder, {**facts, "compared": compared})
        server_files.write_server_files(directory, overwrite=False)

    return publishing.publish(directory, version, write)
