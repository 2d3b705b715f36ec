"""Make a folded model compute in fewer bits."""

from typing import Any

import keras

from bn_keras.keras_graph import read_graph, sublayers
from bn_keras.quantization import QuantizedModel


def use_bfloat16(model: keras.Model) -> None:
    """Let the float32 layers of a model compute in bfloat16, except the last ones.

    The weights stay in float32; the exporter stores what the graph reads, which is
    their rounded values. Products are summed in float32. Layers without weights after
    the last one with weights, such as a softmax, stay in float32 together with it:
    probabilities need the digits.

    Args:
        model: A folded model, which is changed.
    """
    graph = read_graph(model)
    kept: set[int] = set()
    pending = list(graph.outputs)
    while pending:
        call = pending.pop().producer
        if call is None:
            continue
        layers = [call.operation, *sublayers(call.operation)]
        kept.update(map(id, layers))
        if not any(getattr(layer, "weights", ()) for layer in layers):
            pending += call.inputs
    for call in graph.calls:
        for layer in [call.operation, *sublayers(call.operation)]:
            policy = getattr(layer, "dtype_policy", None)
            if id(layer) not in kept and getattr(policy, "name", "") == "float32":
                layer.dtype_policy = "mixed_bfloat16"


def describe_quantization(model: QuantizedModel) -> dict[str, Any]:
    """Return what the manifest holds of an int8 model."""
    report = model.report
    assert report is not None
    return {
        "calibration": report.calibration,
        "measure": report.measure,
        "score": report.score,
        "bound": report.bound,
        "examples": report.examples,
        "relative_error": report.relative_error,
        "int8_share": report.int8_share,
        "warnings": report.warnings,
        "layers": [
            {
                "layer": entry.layer,
                "outcome": entry.outcome,
                "reason": entry.reason,
                "scale": entry.scale,
                "snr": entry.snr,
            }
            for entry in report.entries
        ],
    }
