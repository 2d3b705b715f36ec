"""Population statistics of a trained model, estimated over many mini-batches.

Knows models and their normalization layers; not where the data comes from.
"""

from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

from bn_keras.batch_normalization import BatchNormalization, full_mask, kept_axes
from bn_keras.statistics import Moments, batch_moments, unbiased_variance

NORMALIZATION_LAYERS = (BatchNormalization, keras.layers.BatchNormalization)


def estimate_population_statistics(model, data, steps=None):
    """Replace the moving statistics of a trained model by population estimates.

    With `mean_B` and `variance_B` the moments of mini-batch B, for every
    batch-normalization layer

    `moving_mean = E_B[mean_B]`,
    `moving_variance = m / (m - 1) * E_B[variance_B]`,

    each layer normalizing by the mini-batch's moments meanwhile, every other layer
    (dropout) in inference mode. Weights stay as they are; so do layers with
    `trainable=False`. Layers may be nested, and may be Keras' own or ours.
    Mini-batches with fewer than two values per channel are left out.

    Args:
        model: a built Keras model.
        data: an array `(examples, ...)`, cut into mini-batches of 256, or an iterable
            of mini-batches: arrays `(batch, ...)`, structures of them for models of
            several inputs, or tuples whose first element is that (labels are ignored).
        steps: the number of mini-batches to use; None for all.

    Returns:
        A dict from each layer's path to the largest movement of its mean, in standard
        deviations: `max |new mean - old mean| / sqrt(new variance + epsilon)`.

    Raises:
        ValueError: where the model has no such layer, or no mini-batch reached one with
            two values or more. The statistics are then as before.

    Example:
    ```python
    import keras, numpy as np
    from bn_keras import BatchNormalization, estimate_population_statistics

    model = keras.Sequential([keras.Input((2,)), BatchNormalization()])
    data = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    moved = estimate_population_statistics(model, data)
    print(model.layers[0].moving_variance)  # 4 and 0
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, steps 8 to 10.
    """
    layers = [
        layer
        # Keras has no public walk through nested models and wrappers.
        for layer in model._flatten_layers()
        if isinstance(layer, NORMALIZATION_LAYERS) and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "The model must have a trainable batch-normalization layer to estimate "
            f"statistics for. Received: {type(model).__name__} {model.name!r} of "
            f"{len(model.layers)} layers, none of them one"
        )
    before = {layer.path: _moving_statistics(layer) for layer in layers}
    sums = {layer.path: Moments(0, 0.0, 0.0) for layer in layers}

    def add(layer, moments):
        count = int(np.max(moments.count))
        if count < 2:
            return
        number, mean, variance = sums[layer.path]
        batch_mean, batch_variance = (
            np.asarray(ops.convert_to_numpy(value), np.float64)
            for value in (moments.mean, moments.variance)
        )
        sums[layer.path] = Moments(
            number + 1,
            mean + batch_mean,
            variance + unbiased_variance(batch_variance, count),
        )

    try:
        with _observed(layers, add):
            for step, batch in enumerate(_batches(data)):
                if step == steps:
                    break
                model(batch, training=False)
        for layer in layers:
            if not sums[layer.path].count:
                raise ValueError(
                    "Every layer must see at least one mini-batch with two values or "
                    f"more per channel. Received: none for layer {layer.path!r}; use "
                    "larger mini-batches"
                )
    finally:
        for layer in layers:
            _assign(layer, *before[layer.path])
    moved = {}
    for layer in layers:
        number, mean, variance = sums[layer.path]
        mean, variance = mean / number, variance / number
        shape = layer.moving_mean.shape
        _assign(layer, mean.reshape(shape), variance.reshape(shape))
        shift = np.abs(mean.reshape(shape) - before[layer.path][0])
        deviation = np.sqrt(variance.reshape(shape) + layer.epsilon)
        moved[layer.path] = float(np.max(shift / deviation))
    return moved


@contextmanager
def _observed(layers, add):
    """Run `layers` in training mode and pass the moments of each call to `add`."""

    def observe(layer):
        call = layer.call

        def observed(inputs, training=None, mask=None):
            dtype = keras.backend.result_type(inputs.dtype, "float32")
            kept = kept_axes(layer.axis, inputs.shape)
            axes = [axis for axis in range(len(inputs.shape)) if axis not in kept]
            add(
                layer,
                batch_moments(ops.cast(inputs, dtype), axes, full_mask(mask, inputs)),
            )
            return call(inputs, training=True, mask=mask)

        layer.call = observed

    for layer in layers:
        observe(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _batches(data):
    if hasattr(data, "shape"):
        for start in range(0, len(data), 256):
            yield data[start : start + 256]
    else:
        for batch in data:
            yield batch[0] if isinstance(batch, tuple) else batch


def _moving_statistics(layer):
    return (
        ops.convert_to_numpy(layer.moving_mean),
        ops.convert_to_numpy(layer.moving_variance),
    )


def _assign(layer, mean, variance):
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
