"""Observation of the moments that batch-normalization layers see."""

import inspect
import threading
import types
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
from bn_keras.layer.kernels import normalize_batch
from bn_keras.layer.moments import Moments

# One thread at a time may take the place of `call`; it may do so again meanwhile.
_LOCK = threading.RLock()


@contextmanager
def observe_moments(
    layers: Sequence[Any],
    observer: Callable[[Any, Moments], None],
    normalize_by_batch: bool = False,
    within: Any = None,
) -> Iterator[None]:
    """Pass the moments of every call of some layers to a function.

    Within the context the layers run in inference mode, whatever `training` is, or
    normalize by the moments of the batch. Their moving statistics are not updated. This
    holds for calls by the same thread; calls by other threads are what they always are.

    Args:
        layers: Batch-normalization layers, Keras' or this package's.
        observer: Called as `observer(layer, moments)` before the layer returns.
        normalize_by_batch: Whether the layers normalize by the moments of the batch
            instead of their moving statistics.
        within: The model or layer that is going to be called. Where a `call` in it is
            compiled by `tf.function`, this thread runs the Python function instead:
            what was compiled before does not observe anything.
    """
    # Keras looks up `call` at each call of a layer, so an attribute of the instance
    # takes precedence over the method. This works for layers at any depth of a model,
    # for shared layers and for Keras' own class, without building another model.
    with _LOCK:
        replaced = {}
        if within is not None:
            for layer in within._flatten_layers():
                function = getattr(
                    inspect.getattr_static(type(layer), "call"), "python_function", None
                )
                if function is not None:
                    replaced[layer] = types.MethodType(function, layer)
        for layer in layers:
            replaced[layer] = _observed_call(layer, observer, normalize_by_batch)
        owner = threading.get_ident()
        saved = {layer: vars(layer).get("call") for layer in replaced}
        for layer, call in replaced.items():
            layer.call = _call_in_thread(owner, call, layer.call)
        try:
            yield
        finally:
            for layer, call in saved.items():
                if call is None:
                    del layer.call  # the method of the class becomes visible again
                else:
                    layer.call = call


def _call_in_thread(owner, call, other_call):
    def choose_call(*args, **kwargs):
        chosen = call if threading.get_ident() == owner else other_call
        return chosen(*args, **kwargs)

    return choose_call


def _observed_call(layer, observer, normalize_by_batch):
    call = layer.call  # bound to the layer, before it is hidden

    def observed_call(inputs, training=None, mask=None):
        channel_axes = resolve_channel_axes(layer.axis, inputs.shape)
        axes = [axis for axis in range(len(inputs.shape)) if axis not in channel_axes]
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        values = ops.cast(inputs, dtype)
        gamma, beta = (
            reshape_for_broadcast(weight, values, channel_axes)
            for weight in (layer.gamma, layer.beta)
        )
        outputs, moments = normalize_batch(
            values, gamma, beta, axes, layer.epsilon, expand_mask(mask, inputs)
        )
        observer(layer, moments)
        if not normalize_by_batch:
            return call(inputs, training=False)
        # Not `call(inputs, training=True)`: that would update the moving statistics,
        # and Keras' layer would compute its moments less exactly.
        return ops.cast(outputs, layer.compute_dtype)

    return observed_call
