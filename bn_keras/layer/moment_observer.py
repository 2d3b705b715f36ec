"""Observation of the moments that batch-normalization layers see."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from bn_keras.layer.axes import (
    expand_mask,
    reshape_for_broadcast,
    resolve_channel_axes,
)
from bn_keras.layer.formulas import normalize
from bn_keras.layer.moments import Moments, batch_moments


@contextmanager
def observe_moments(
    layers: Sequence[Any],
    observer: Callable[[Any, Moments], None],
    normalize_by_batch: bool = False,
) -> Iterator[None]:
    """Pass the moments of every call of some layers to a function.

    Within the context the layers run in inference mode, whatever `training` is, or
    normalize by the moments of the batch. Their moving statistics are not updated.

    Args:
        layers: Batch-normalization layers, Keras' or this package's.
        observer: Called as `observer(layer, moments)` before the layer returns.
        normalize_by_batch: Whether the layers normalize by the moments of the batch
            instead of their moving statistics.
    """
    # Keras looks up `call` at each call of a layer, so an attribute of the instance
    # takes precedence over the method. This works for layers at any depth of a model,
    # for shared layers and for Keras' own class, without building another model.
    for layer in layers:
        layer.call = _observed_call(layer, observer, normalize_by_batch)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call  # the method of the class becomes visible again


def _observed_call(layer, observer, normalize_by_batch):
    call = layer.call  # bound to the layer, before it is hidden

    def observed_call(inputs, training=None, mask=None):
        channel_axes = resolve_channel_axes(layer.axis, inputs.shape)
        axes = [axis for axis in range(len(inputs.shape)) if axis not in channel_axes]
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        values = ops.cast(inputs, dtype)
        moments = batch_moments(values, axes, expand_mask(mask, inputs))
        observer(layer, moments)
        if not normalize_by_batch:
            return call(inputs, training=False)
        # Not `call(inputs, training=True)`: that would update the moving statistics,
        # and Keras' layer would compute its moments less exactly.
        gamma, beta = (
            reshape_for_broadcast(weight, values, channel_axes)
            for weight in (layer.gamma, layer.beta)
        )
        _, mean, variance = moments
        outputs = normalize(values, gamma, beta, mean, variance, layer.epsilon)
        return ops.cast(outputs, layer.compute_dtype)

    return observed_call
