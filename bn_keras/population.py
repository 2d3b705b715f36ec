"""Population statistics of a trained model, estimated over many mini-batches.

Knows models and their normalization layers; not where the data comes from.
"""

from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from bn_keras.layer.axes import expand_mask, reshape_for_broadcast, resolve_channel_axes
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.layer.formulas import normalize
from bn_keras.layer.moments import (
    Moments,
    batch_moments,
    merge_moments,
    unbiased_variance,
)
from bn_keras.layer.moving_statistics import update_average


class Movement(NamedTuple):
    """How far an estimate moved a layer's statistics: the channel that moved most.

    Args:
        mean: `max |new mean - old mean| / sqrt(new variance + epsilon)`.
        log_variance: `max |log((new variance + epsilon) / (old variance + epsilon))|`.
    """

    mean: float
    log_variance: float


METHODS = ("algorithm2", "pooled", "layerwise")


def estimate_population_statistics(
    model, data, method="algorithm2", steps=None, verbose=1
):
    """Replace the moving statistics of a trained model by population estimates.

    With `mean_B` and `variance_B` the moments of mini-batch B of `m_B` values:

    - `"algorithm2"`: `moving_mean = E_B[mean_B]`,
      `moving_variance = E_B[variance_B * m_B / (m_B - 1)]`, all mini-batches with equal
      weight, as the paper has it. Mini-batches should be of training's size.
    - `"pooled"`: the mean and the unbiased variance of all values of all mini-batches
      together, merged exactly: how they are cut does not matter to a layer that has no
      other one before it.
    - `"layerwise"`: as pooled, one layer after the other, each with all layers before
      it already in inference mode. It reads the data once for each layer.

    The first two let each normalization layer normalize by the mini-batch's own moments
    meanwhile. Everything else (dropout) runs in inference mode. Weights stay as they
    are, and so do layers with `trainable=False` or `frozen_statistics`. Layers may be
    nested, and may be Keras' own or ours. A layer that the model calls several times
    counts each call as a mini-batch. A channel with fewer than two values in a
    mini-batch, or with moments that are not finite, is left out of it. If the estimate
    is interrupted, or fails, the statistics are as before.

    On data of a new domain this is domain adaptation: weights from the old one,
    statistics from the new one.

    Args:
        model: a built Keras model.
        data: an array `(examples, ...)`, cut evenly into mini-batches of at most 256,
            or an iterable of mini-batches: arrays `(batch, ...)`, structures of them
            for models of several inputs, or tuples whose first element is that (labels
            are ignored).
        method: `"algorithm2"`, `"pooled"` or `"layerwise"`.
        steps: the number of mini-batches to use; None for all.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        A dict from each layer's path to its `Movement`. Equal paths are numbered,
        `path (2)`.

    Raises:
        ValueError: for an unknown method, `steps` below 1, a model without such a
            layer, data that can be read only once where it must be read for each layer,
            or if some layer got no mini-batch with two values or more.

    Example:
    ```python
    import keras
    import numpy as np
    from bn_keras import BatchNormalization, estimate_population_statistics

    model = keras.Sequential([keras.Input((2,)), BatchNormalization()])
    data = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    moved = estimate_population_statistics(model, data, verbose=0)
    assert np.allclose(model.layers[0].moving_mean.numpy(), [2.0, 1.0])
    assert np.allclose(model.layers[0].moving_variance.numpy(), [4.0, 0.0])
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, steps 8 to 10; Wu & Johnson 2021, "Rethinking
        'Batch' in BatchNorm", section 3, for `"pooled"` and `"layerwise"`.
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}"
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(
            f"`steps` must be None or an integer of at least 1. Received: {steps!r}"
        )
    if isinstance(data, tuple | dict):
        raise ValueError(
            "`data` must be an array or an iterable of mini-batches. Received: one "
            f"{type(data).__name__}; pass it in a list: `[(images, labels)]`"
        )
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, BATCH_NORMALIZATIONS)
        and layer.trainable
        and not getattr(layer, "frozen_statistics", False)
    ]
    if not layers:
        raise ValueError(
            "The model must have a trainable batch-normalization layer to estimate "
            f"statistics for. Received: {type(model).__name__} {model.name!r} without "
            "one that is not frozen (`trainable=False`, `frozen_statistics=True`)"
        )
    batches = _Batches(data, steps, verbose)
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    before = [ops.convert_to_numpy(variable) for variable in variables]
    old = [
        [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]
        for layer in layers
    ]
    try:
        if method == "layerwise":
            _estimate_layerwise(model, layers, batches)
        else:
            _estimate_at_once(model, layers, batches, method)
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise
    return _movements(layers, old)


class _Batches:
    """The inputs of each mini-batch, read anew at each iteration, with progress."""

    def __init__(self, data, steps, verbose):
        self.data, self.steps, self.verbose = data, steps, verbose
        if hasattr(data, "shape"):
            self.data = np.array_split(data, max(1, -(-len(data) // 256)))
        self.only_once = iter(self.data) is self.data
        # -1 is what a `tf.data.Dataset` without end has.
        cardinality = getattr(data, "cardinality", None)
        if steps is None and cardinality is not None and int(cardinality()) == -1:
            raise ValueError(
                "`steps` must say how many mini-batches to use of a data set without "
                "end. Received: steps=None; give a number"
            )

    def __iter__(self):
        try:
            known = len(self.data)
        except TypeError:  # a generator, a data set of unknown or infinite size
            known = None
        sizes = [size for size in (known, self.steps) if size is not None]
        target = min(sizes, default=None)
        bar = keras.utils.Progbar(target, verbose=self.verbose, unit_name="batch")
        step = 0
        for batch in self.data:
            yield batch[0] if isinstance(batch, tuple) else batch
            step += 1
            bar.update(step, finalize=False)
            if step == self.steps:
                break
        bar.update(step, finalize=True)


def _estimate_at_once(model, layers, batches, method):
    """All layers in one pass, each normalizing by its mini-batch."""
    estimates = {id(layer): _Estimate(layer) for layer in layers}

    def observe(layer, moments):
        estimates[id(layer)].add(moments, method)

    with _observed(layers, observe, by_batch=True):
        for batch in batches:
            model(batch, training=False)
    for layer in layers:
        estimates[id(layer)].store(method)


def _estimate_layerwise(model, layers, batches):
    """One layer a pass, in the order of their first calls."""
    if batches.only_once:
        raise ValueError(
            "The method 'layerwise' reads the data once for each layer. Received: an "
            f"iterator, {type(batches.data).__name__}; pass a list or a data set"
        )
    order = []

    def note(layer, moments):
        if layer not in order:
            order.append(layer)

    with _observed(layers, note):
        for batch in batches:
            model(batch, training=False)
            break
    for layer in order + [layer for layer in layers if layer not in order]:
        estimate = _Estimate(layer)

        def observe(_, moments, estimate=estimate):
            estimate.add(moments, "pooled")

        with _observed([layer], observe):
            for batch in batches:
                model(batch, training=False)
        estimate.store("pooled")


class _Estimate:
    """What is known of one layer's population, in float64, channel by channel."""

    def __init__(self, layer):
        self.layer = layer
        zeros = np.zeros(layer.moving_mean.shape)
        self.moments = Moments(zeros, zeros, zeros)
        self.batches = zeros

    def add(self, moments, method):
        shape = self.moments.mean.shape
        count, mean, variance = (
            np.asarray(ops.convert_to_numpy(value), np.float64) for value in moments
        )
        count = np.broadcast_to(count, mean.shape).reshape(shape)
        mean, variance = mean.reshape(shape), variance.reshape(shape)
        usable = (count >= 2) & np.isfinite(mean + variance)
        self.batches = self.batches + usable
        count, mean, variance = (
            np.where(usable, value, 0) for value in (count, mean, variance)
        )
        if method == "algorithm2":
            variance = unbiased_variance(variance, count)
            number = self.moments.count + usable
            weight = usable / np.maximum(number, 1)
            self.moments = Moments(
                number,
                update_average(self.moments.mean, mean, weight),
                update_average(self.moments.variance, variance, weight),
            )
        else:
            self.moments = merge_moments(self.moments, Moments(count, mean, variance))

    def store(self, method):
        count, mean, variance = self.moments
        seen = count > 0
        if not seen.any():
            raise ValueError(
                "Every layer must see at least one mini-batch with two finite values "
                f"or more per channel. Received: none for layer {self.layer.path!r}; "
                "use larger mini-batches"
            )
        if method != "algorithm2":
            variance = unbiased_variance(variance, count)
        layer = self.layer
        variables = [(layer.moving_mean, mean), (layer.moving_variance, variance)]
        if getattr(layer, "renorm", False):
            # Training goes on from the deviation.
            stddev = np.sqrt(variance + layer.epsilon)
            variables.append((layer.moving_stddev, stddev))
        if getattr(layer, "averaging", "moving") != "moving":
            # Training goes on with the estimate's weight.
            variables.append((layer.updates, self.batches))
        for variable, value in variables:
            old = ops.convert_to_numpy(variable)
            with np.errstate(over="ignore"):
                new = np.where(seen, value, old).astype(old.dtype)
            if not np.isfinite(new[seen]).all():
                raise ValueError(
                    f"The statistics must be finite in {old.dtype}. Received: layer "
                    f"{layer.path!r} with values up to {np.abs(value).max():.3g}; use "
                    "bn_keras.BatchNormalization or a mixed policy"
                )
            variable.assign(new)


@contextmanager
def _observed(layers, observe, by_batch=False):
    """Pass each call's moments to `observe(layer, moments)`.

    The layers answer in inference mode, or `by_batch`: normalized by these moments.
    """

    def wrap(layer):
        call = layer.call

        def observed(inputs, training=None, mask=None):
            kept = resolve_channel_axes(layer.axis, inputs.shape)
            axes = [axis for axis in range(len(inputs.shape)) if axis not in kept]
            dtype = keras.backend.result_type(inputs.dtype, "float32")
            values = ops.cast(inputs, dtype)
            moments = batch_moments(values, axes, expand_mask(mask, inputs))
            observe(layer, moments)
            if not by_batch:
                return call(inputs, training=False)
            gamma, beta = (
                reshape_for_broadcast(weight, values, kept)
                for weight in (layer.gamma, layer.beta)
            )
            _, mean, variance = moments
            outputs = normalize(values, gamma, beta, mean, variance, layer.epsilon)
            return ops.cast(outputs, layer.compute_dtype)

        layer.call = observed

    for layer in layers:
        wrap(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _movements(layers, statistics):
    moved = {}
    for layer, (old, old_variance) in zip(layers, statistics, strict=True):
        variance = ops.convert_to_numpy(layer.moving_variance)
        shift = np.abs(ops.convert_to_numpy(layer.moving_mean) - old)
        path, number = layer.path, 1
        while path in moved:
            number += 1
            path = f"{layer.path} ({number})"
        now, then = variance + layer.epsilon, old_variance + layer.epsilon
        moved[path] = Movement(
            float(np.max(shift / np.sqrt(now))),
            float(np.max(np.abs(np.log(now / then)))),
        )
    return moved
