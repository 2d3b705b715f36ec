"""The loss around a point: how it and its gradient change along the gradient.

Knows a loss as a function of its weights; no data, no training and no figure.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

# Called as `compute(weights)`, it returns the loss and one gradient for each weight.
Compute = Callable[[Sequence[Any]], tuple[Any, Sequence[Any]]]


class Probe(NamedTuple):
    """What was found along the gradient g of one point w.

    Args:
        loss: L(w).
        losses: least and largest L(w - rate g) over the rates.
        distances: least and largest |g - g'| over the rates, g' the gradient at
            w - rate g: the gradient predictiveness.
        smoothness: largest |g - g'| / (rate |g|): the effective beta-smoothness.
    """

    loss: float
    losses: tuple[float, float]
    distances: tuple[float, float]
    smoothness: float


class Shift(NamedTuple):
    """The internal covariate shift of one layer.

    Args:
        distance: |G - G'|, G the gradient of the layer's weights, G' the same after
            all earlier layers took their step.
        cosine: of the angle between the two; NaN where one of them vanishes or is no
            number.
    """

    distance: float
    cosine: float


def loss_and_gradients(model: keras.Model, loss: Callable[..., Any]) -> Any:
    """The loss of a mini-batch as a function of the weights, in training mode.

    The model's own weights and statistics stay as they are. It is compiled once.

    Args:
        model: built, of one input.
        loss: called as `loss(targets, outputs)`.

    Returns:
        A function of a list of values for `model.trainable_variables`, the inputs and
        the targets, to `(loss, gradients)`, tensors.

    Raises:
        ValueError: under another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The gradients need Keras' TensorFlow backend. Received: "
            f"{keras.backend.backend()}; set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    @tf.function
    def compute(weights, inputs, targets):
        # The statistics that the stateless call would store are dropped.
        statistics = [ops.convert_to_tensor(v) for v in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            found = model.stateless_call(weights, statistics, inputs, training=True)
            value = loss(targets, found[0])
        return value, tape.gradient(value, weights)

    return compute


def layers_of(model: keras.Model) -> list[list[int]]:
    """Which trainable weights each layer has, a normalization joined to its layer.

    Args:
        model: built; each layer with a kernel begins a layer, in the order of the
            model's.

    Returns:
        Of each layer the indices in `model.trainable_variables`.
    """
    index = {id(v): i for i, v in enumerate(model.trainable_variables)}
    layers: list[list[int]] = []
    for layer in model.layers:
        found = [index[id(variable)] for variable in layer.trainable_variables]
        if getattr(layer, "kernel", None) is not None:
            layers.append(found)
        elif found:
            layers[-1] += found
    return layers


def probe(compute: Compute, weights: Sequence[Any], rates: Sequence[float]) -> Probe:
    """Look along the gradient, one step of each rate from the same point.

    Args:
        compute: see `Compute`.
        weights: arrays or tensors; they stay as they are.
        rates: lengths of the steps, in gradients.

    Returns:
        A `Probe`. A loss or distance that is no number counts as infinite.

    Example:
    ```python
    import numpy as np
    from bn_keras.experiments.probing import probe

    def compute(weights):  # w^2, whose second derivative is 2 everywhere
        return weights[0] ** 2, [2 * weights[0]]

    found = probe(compute, [np.array(3.0)], [0.25, 0.5])
    assert found.losses == (0.0, 2.25) and found.smoothness == 2.0
    ```

    Reference:
        Santurkar et al. 2018, section 3.1, figure 4.
    """
    loss, gradients = compute(weights)
    norm = _norm(gradients)
    losses, distances = [], []
    for rate in rates:
        there, changed = compute(_stepped(weights, gradients, rate))
        losses.append(_number(there))
        distances.append(_distance(gradients, changed))
    smoothness = [
        distance / (rate * norm) if norm else 0.0
        for rate, distance in zip(rates, distances, strict=True)
    ]
    return Probe(
        _number(loss),
        (min(losses), max(losses)),
        (min(distances), max(distances)),
        _number(max(smoothness)),
    )


def covariate_shift(
    compute: Compute, weights: Sequence[Any], layers: Sequence[Sequence[int]], rate
) -> list[Shift]:
    """How far the step of the earlier layers changes each layer's gradient.

    Args:
        compute: see `Compute`.
        weights: arrays or tensors; they stay as they are.
        layers: of each layer the indices of its weights, in the network's order.
        rate: of the earlier layers' step.

    Returns:
        A `Shift` of each layer but the first, which has no earlier one.

    Reference:
        Santurkar et al. 2018, definition 2.1.
    """
    _, gradients = compute(weights)
    moved, shifts = list(weights), []
    for earlier, layer in pairwise(layers):
        for index in earlier:
            moved[index] = weights[index] - rate * gradients[index]
        _, changed = compute(moved)
        before = [gradients[index] for index in layer]
        after = [changed[index] for index in layer]
        distance = _distance(before, after)
        norms = _norm(before) * _norm(after)
        product = sum(
            float(np.vdot(_array(one), _array(other)))
            for one, other in zip(before, after, strict=True)
        )
        cosine = product / norms if norms else np.nan
        shifts.append(Shift(distance, cosine if np.isfinite(cosine) else np.nan))
    return shifts


def _stepped(weights, gradients, rate):
    return [w - rate * g for w, g in zip(weights, gradients, strict=True)]


def _array(tensor):
    return np.asarray(tensor, np.float64)


def _norm(gradients):
    return float(np.sqrt(sum(np.sum(np.square(_array(g))) for g in gradients)))


def _distance(gradients, changed):
    pairs = zip(gradients, changed, strict=True)
    return _number(_norm([_array(one) - _array(other) for one, other in pairs]))


def _number(value):
    value = float(value)
    return np.inf if np.isnan(value) else value
