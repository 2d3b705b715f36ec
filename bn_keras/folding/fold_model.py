"""Fold batch normalization into the neighboring linear layers, for inference."""

from html import escape

import keras

from bn_keras.folding.fold_graph import fold_graph
from bn_keras.folding.rebuilding import rebuild_model
from bn_keras.folding.report import Report
from bn_keras.keras_graph import read_graph


class FoldingResult:
    """A folded model and the report of what happened to each batch normalization.

    Args:
        model: A plain `keras.Model` for inference, not compiled.
        report: One entry for each call of a batch-normalization layer.
    """

    # Not a dataclass: type checkers take a field of type `keras.Model`, whose base
    # classes they do not know, for a descriptor of unknown type.
    def __init__(self, model: keras.Model, report: Report) -> None:
        self.model: keras.Model = model
        self.report = report

    def __repr__(self) -> str:
        return f"<FoldingResult: model {self.model.name!r}, report {self.report!r}>"

    def __str__(self) -> str:
        return f"Folded model {self.model.name!r}\n{self.report}"

    def _repr_html_(self) -> str:
        name = escape(self.model.name)
        return f"<p>Folded model <code>{name}</code></p>{self.report._repr_html_()}"


def fold_batch_normalization(model: keras.Model) -> FoldingResult:
    """Fold every batch normalization of a model into its linear layers.

    With the population statistics, batch normalization is the affine map

    `y = scale * x + shift`, `scale = gamma / sqrt(variance + epsilon)`,
    `shift = beta - mean * scale`,

    which the linear layer before or after it can absorb exactly. Where no linear layer
    can, the batch normalization becomes a single multiply-add with constants. Nested
    models are inlined. The names, dtypes and structures of inputs and outputs do not
    change. The given model is not changed, and the result shares no variable with it.
    Scales, shifts and weights are computed in float64 and rounded once.

    A batch normalization that is called with `training=True`, or that is inside another
    layer such as `TimeDistributed` or an RNN, is kept, and the report says so.

    Args:
        model: A built Functional or Sequential model. Layers of
            `bn_keras.BatchNormalization` and of `keras.layers.BatchNormalization` are
            folded.

    Returns:
        A `FoldingResult` with the attributes `model` and `report`.

    Raises:
        TypeError: If `model` is subclassed, or not a model.
        ValueError: If `model` is not built, or a layer cannot be copied.

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
    report = fold_graph(graph)
    return FoldingResult(rebuild_model(graph), report)
