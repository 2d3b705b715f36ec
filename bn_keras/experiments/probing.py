"""The loss around a point: how it and its gradient change along the gradient."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

# Called as `compute(weights)`. Returns the loss and one gradient for each weight.
Compute = Callable[[Sequence[Any]], tuple[Any, Sequence[Any]]]


class Probe(NamedTuple):
    """What was measured along the gradient g at a point w.

    Args:
        loss: L(w).
        losses: The smallest and largest L(w - rate g) over the rates.
        distances: The smallest and largest |g - g'| over the rates, where g' is the
            gradient at w - rate g: the gradient predictiveness.
        smoothness: The largest |g - g'| / (rate |g|): the effective beta-smoothness.
    """

    loss: float
    losses: tuple[float, float]
    distances: tuple[float, float]
    smoothness: float


class Shift(NamedTuple):
    """The internal covariate shift of one layer.

    Args:
        distance: |G - G'|, where G is the gradient of the layer's weights, and G' the
            same after all earlier layers took their step.
        cosine: The cosine of the angle between G and G'. NaN if one of them is 0 or not
            finite.
    """

    distance: float
    cosine: float


def build_loss_and_gradients(
    model: keras.Model, loss: Callable[..., Any]
) -> Callable[..., Any]:
    """Compile the loss of a mini-batch, in training mode, as a function of the weights.

    Calling it changes neither the model's weights nor its statistics.

    Args:
        model: A built model with one input.
        loss: Called as `loss(targets, outputs)`.

    Returns:
        A function of a list of values for `model.trainable_variables`, the inputs and
        the targets. It returns the tensors `(loss, gradients)`.

    Raises:
        ValueError: If Keras' backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The gradients need Keras' TensorFlow backend. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    @tf.function
    def loss_and_gradients(weights, inputs, targets):
        # `stateless_call` returns new moving statistics, which are discarded here.
        statistics = [ops.convert_to_tensor(v) for v in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, *_ = model.stateless_call(
                weights, statistics, inputs, training=True
            )
            value = loss(targets, outputs)
        return value, tape.gradient(value, weights)

    return loss_and_gradients


def group_weights(model: keras.Model) -> list[list[int]]:
    """Group the trainable weights by layer, a normalization with the layer before.

    Args:
        model: A built model. Each layer with a kernel and the first layer with weights,
            which may be a separable convolution, start a group, in the order of
            `model.layers`.

    Returns:
        For each group, the indices into `model.trainable_variables`.
    """
    index = {id(v): i for i, v in enumerate(model.trainable_variables)}
    groups: list[list[int]] = []
    for layer in model.layers:
        indices = [index[id(variable)] for variable in layer.trainable_variables]
        if not indices:
            continue
        if getattr(layer, "kernel", None) is not None or not groups:
            groups.append(indices)
        else:
            groups[-1] += indices
    return groups


def probe(compute: Compute, weights: Sequence[Any], rates: Sequence[float]) -> Probe:
    """Measure the loss and its gradient after a step of each rate from the same point.

    Args:
        compute: See `Compute`.
        weights: Arrays or tensors, which are not changed.
        rates: The step lengths, as multiples of the gradient.

    Returns:
        A `Probe`. A loss or distance that is NaN counts as infinite.

    Example:
    ```python
    import numpy as np
    from bn_keras.experiments.probing import probe

    def compute(weights):  # w^2, whose second derivative is 2 everywhere
        return weights[0] ** 2, [2 * weights[0]]

    result = probe(compute, [np.array(3.0)], [0.25, 0.5])
    assert result.losses == (0.0, 2.25) and result.smoothness == 2.0
    ```

    Reference:
        Santurkar et al. 2018, section 3.1, figure 4.
    """
    loss, gradients = compute(weights)
    norm = _norm(gradients)
    losses, distances = [], []
    for rate in rates:
        stepped = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
        loss_there, gradients_there = compute(stepped)
        losses.append(_nan_to_infinity(loss_there))
        distances.append(_distance(gradients, gradients_there))
    smoothness = [
        distance / (rate * norm) if norm else 0.0
        for rate, distance in zip(rates, distances, strict=True)
    ]
    return Probe(
        _nan_to_infinity(loss),
        (min(losses), max(losses)),
        (min(distances), max(distances)),
        _nan_to_infinity(max(smoothness)),
    )


def covariate_shift(
    compute: Compute,
    weights: Sequence[Any],
    layers: Sequence[Sequence[int]],
    rate: float,
    drawn: Sequence[int] | None = None,
) -> list[Shift]:
    """Measure how far the step of the earlier layers changes each layer's gradient.

    Args:
        compute: See `Compute`.
        weights: Arrays or tensors, which are not changed.
        layers: The indices of each layer's weights, in the order of the network.
        rate: The learning rate of the earlier layers' step.
        drawn: The layers that are measured, counted from 1, in ascending order. The
            first layer has no earlier layer. With None all others are measured.

    Returns:
        A `Shift` for each measured layer.

    Reference:
        Santurkar et al. 2018, definition 2.1.
    """
    _, gradients = compute(weights)
    stepped, shifts = list(weights), []
    for number, (earlier, layer) in enumerate(pairwise(layers), 2):
        # One more layer takes its step each time, so `stepped` holds those of all
        # earlier layers, and no others.
        for index in earlier:
            stepped[index] = weights[index] - rate * gradients[index]
        if drawn is not None and number not in drawn:
            continue
        _, changed = compute(stepped)
        before = [gradients[index] for index in layer]
        after = [changed[index] for index in layer]
        norms = _norm(before) * _norm(after)
        product = sum(
            float(np.vdot(_array(a), _array(b)))
            for a, b in zip(before, after, strict=True)
        )
        cosine = product / norms if norms else np.nan
        shifts.append(
            Shift(_distance(before, after), cosine if np.isfinite(cosine) else np.nan)
        )
    return shifts


def _array(tensor):
    return np.asarray(tensor, np.float64)


def _norm(gradients):
    return float(np.sqrt(sum(np.sum(np.square(_array(g))) for g in gradients)))


def _distance(gradients, others):
    pairs = zip(gradients, others, strict=True)
    return _nan_to_infinity(_norm([_array(a) - _array(b) for a, b in pairs]))


def _nan_to_infinity(value):
    # The loss of a step that is too long overflows, and NaN would be lost in `min`.
    value = float(value)
    return np.inf if np.isnan(value) else value
