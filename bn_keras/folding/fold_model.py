"""Fold batch normalization into the neighboring linear layers, for inference."""

import warnings
from html import escape

import keras

from bn_keras.folding.comparing import Comparison
from bn_keras.folding.fold_graph import fold_graph
from bn_keras.folding.normalizations import largest_deviations
from bn_keras.folding.rebuilding import rebuild_model
from bn_keras.folding.report import Report
from bn_keras.keras_graph import read_graph
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS


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


def fold_batch_normalization(
    model: keras.Model, *, check: bool = True
) -> FoldingResult:
    """Fold every batch normalization of a model into its linear layers.

    With the population statistics, batch normalization is the affine map

    `y = scale * x + shift`, `scale = gamma / sqrt(variance + epsilon)`,
    `shift = beta - mean * scale`,

    which the linear layer before or after it can absorb exactly. Where no linear layer
    can, the batch normalization becomes a single multiply-add with constants. Nested
    models are inlined. The names, dtypes and structures of inputs and outputs do not
    change. The given model is not changed, and the result shares no variable with it.
    Scales, shifts and weights are computed in float64 and rounded once.

    A subclassed model, or a layer of another class with batch normalization inside, is
    replaced by the calls that it makes, where its `call` consists of layers and
    `keras.ops`. A batch normalization that is called with `training=True`, or that is
    inside a layer which cannot be opened, such as an RNN, is kept, and the report says
    so.

    A warning names every batch normalization whose mean is so many standard deviations
    from zero that half of the digits or more are lost where the shift is added.

    Args:
        model: A built model. Layers of `bn_keras.BatchNormalization` and of
            `keras.layers.BatchNormalization` are folded.
        check: Whether to compare the outputs of the result with those of `model` for
            two random examples. Pass False for a model that is too large for this, or
            whose inputs cannot be drawn from their shapes and dtypes.

    Returns:
        A `FoldingResult` with the attributes `model` and `report`.

    Raises:
        TypeError: If `model` is not a model, or is subclassed and cannot be opened.
        ValueError: If `model` is not built, a layer cannot be copied, or the result has
            other outputs.

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
    result, opened, difference = _fold(model, check, open_layers=True)
    if difference and opened:
        # A layer may do more than calling it on symbolic tensors shows.
        result, _, difference = _fold(model, check, open_layers=False)
    if difference:
        raise ValueError(
            "The folded model must have the outputs of the original model. Received, "
            f"for random inputs: {difference}. Pass `check=False` if the model "
            "amplifies rounding errors, and compare both models on your own inputs."
        )
    for warning in result.report.warnings:
        warnings.warn(warning, stacklevel=2)
    return result


def _fold(
    model: keras.Model, check: bool, open_layers: bool
) -> tuple[FoldingResult, list[str], str]:
    """Return the result, the paths of opened layers and how the outputs differ."""
    graph = read_graph(model, BATCH_NORMALIZATIONS, open_layers)
    comparison = None
    if check:
        comparison = Comparison(model, graph, largest_deviations(graph))
    report = fold_graph(graph)
    result = FoldingResult(rebuild_model(graph), report)
    difference = comparison.find_difference(result.model) if comparison else ""
    return result, graph.opened, difference
