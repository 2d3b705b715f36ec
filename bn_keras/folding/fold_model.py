"""Fold batch normalization into the linear layers beside it, for inference.

This file names what is public; the parts are `algebra`, `graph`, `rules`, `report`.
"""

from dataclasses import dataclass

import keras

from bn_keras.folding.rebuilding import build_model
from bn_keras.folding.report import Report
from bn_keras.folding.rules import fold
from bn_keras.keras_graph import read_graph


@dataclass(frozen=True)
class FoldingResult:
    """A folded model and what became of each batch normalization.

    Args:
        model: a plain `keras.Model`, for inference, not compiled.
        report: one entry for each call of a batch-normalization layer.
    """

    model: keras.Model
    report: Report


def fold_batch_normalization(model):
    """Fold every batch normalization of a model into its linear layers.

    With the population statistics, batch normalization is

    `y = scale * x + shift`, `scale = gamma / sqrt(variance + epsilon)`,
    `shift = beta - mean * scale`,

    which a linear layer in front or behind absorbs exactly. One that no linear layer
    can absorb becomes a single multiply-add with constants. Nested models are inlined;
    names, dtypes and structures of inputs and outputs stay; the given model is not
    changed and shares no variable with the result. Scale, shift and weights are
    computed in float64 and rounded once.

    A batch normalization called with `training=True`, or inside another layer such as
    `TimeDistributed` or an RNN, stays as it is, and the report says so.

    Args:
        model: a built Functional or Sequential `keras.Model`, with layers of
            `bn_keras.BatchNormalization` or `keras.layers.BatchNormalization`.

    Returns:
        A `FoldingResult`: `model` and `report`.

    Raises:
        TypeError: for a subclassed model, or no model.
        ValueError: for a model that is not built, or a layer that cannot be copied.

    Example:
    ```python
    import keras
    import numpy as np
    from bn_keras.folding import fold_batch_normalization

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    )
    result = fold_batch_normalization(model)
    print(result.report)
    assert result.report.folded == 1
    x = np.ones((1, 8, 8, 3), "float32")
    assert np.allclose(result.model(x), model(x), atol=1e-6)
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, step 11.
    """
    graph = read_graph(model)
    report = fold(graph)
    return FoldingResult(build_model(graph), report)
