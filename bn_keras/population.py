"""Population statistics of a trained model, estimated over many mini-batches."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.layer.moment_observer import observe_moments
from bn_keras.layer.moments import Moments, merge_moments, unbiased_variance
from bn_keras.layer.moving_statistics import update_average

METHODS = ("algorithm2", "pooled", "layerwise")


class Movement(NamedTuple):
    """How far an estimate moved the statistics of a layer: the channel that moved most.

    Args:
        mean: `max |new mean - old mean| / sqrt(new variance + epsilon)`.
        log_variance: `max |log((new variance + epsilon) / (old variance + epsilon))|`.
    """

    mean: float
    log_variance: float


def estimate_population_statistics(
    model: keras.Model,
    data: Any,
    method: str = "algorithm2",
    steps: int | None = None,
    verbose: int = 1,
) -> dict[str, Movement]:
    """Replace the moving statistics of a trained model by population estimates.

    With `mean_B` and `variance_B` the moments of mini-batch B of `m_B` values:

    - `"algorithm2"`: `moving_mean = E_B[mean_B]`,
      `moving_variance = E_B[variance_B * m_B / (m_B - 1)]`, where all mini-batches have
      the same weight, as in the paper. Use mini-batches of the size used in training.
    - `"pooled"`: the mean and the unbiased variance of all values of all mini-batches
      together. For the first normalization layer of a model the result does not depend
      on how the data is divided into mini-batches.
    - `"layerwise"`: as `"pooled"`, but one layer after the other, where all earlier
      layers already run in inference mode. The data is read once for each layer.

    With the first two methods, each normalization layer normalizes by the moments of
    the mini-batch during the estimation. All other layers (such as dropout) run in
    inference mode. Trainable weights do not change, and neither do layers with
    `trainable=False` or `frozen_statistics=True`. Layers may be nested, and may be
    Keras' or this package's. If the model calls a layer several times, each call counts
    as a mini-batch. Mini-batches with fewer than two values for a channel, or with
    moments that are not finite, are ignored for that channel. If the estimation fails
    or is interrupted, the old statistics are restored.

    Applied to data from a new domain this is domain adaptation: the weights are those
    of the old domain, the statistics those of the new one.

    Args:
        model: A built Keras model.
        data: An array `(examples, ...)`, which is divided evenly into mini-batches of
            at most 256, or an iterable of mini-batches: arrays `(batch, ...)`, for
            models of several inputs structures of them, or tuples whose first element
            is one of these (labels are ignored).
        method: `"algorithm2"`, `"pooled"` or `"layerwise"`.
        steps: The number of mini-batches to use, or None for all.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        A dict from the path of each layer to its `Movement`. If several layers have the
        same path, the later ones are numbered: `path (2)`.

    Raises:
        ValueError: If the method is unknown, `steps` is less than 1, the model has no
            layer to estimate statistics for, the method is `"layerwise"` and the data
            can be read only once, or a layer sees no mini-batch with two values or
            more.

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
            f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}"
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(
            "`steps` must be None or an integer of at least 1. Received: "
            f"steps={steps!r}"
        )
    if isinstance(data, tuple | dict):
        raise ValueError(
            "`data` must be an array or an iterable of mini-batches. Received: a "
            f"single {type(data).__name__}. Pass it in a list: `[(images, labels)]`."
        )
    layers = [
        layer
        for layer in model._flatten_layers()  # at any depth; Keras has no public way
        if isinstance(layer, BATCH_NORMALIZATIONS)
        and layer.trainable
        and not getattr(layer, "frozen_statistics", False)
    ]
    if not layers:
        raise ValueError(
            "The model must have a batch-normalization layer that is not frozen. "
            f"Received: {type(model).__name__} {model.name!r} without one. Set "
            "`trainable=True` and `frozen_statistics=False` on the layers to estimate."
        )
    batches = _Batches(data, steps, verbose)
    # All state of the layers, not only what is estimated: a failure must restore it.
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    saved_values = [ops.convert_to_numpy(variable) for variable in variables]
    old_statistics = [
        [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]
        for layer in layers
    ]
    try:
        if method == "layerwise":
            _estimate_layerwise(model, layers, batches)
        else:
            _estimate_together(model, layers, batches, method)
    except BaseException:  # Ctrl-C, too
        for variable, value in zip(variables, saved_values, strict=True):
            variable.assign(value)
        raise
    return _movements(layers, old_statistics)


class _Batches:
    """The inputs of each mini-batch; each iteration reads the data again."""

    def __init__(self, data: Any, steps: int | None, verbose: int) -> None:
        self.data, self.steps, self.verbose = data, steps, verbose
        if hasattr(data, "shape"):
            self.data = np.array_split(data, max(1, -(-len(data) // 256)))
        self.only_once = iter(self.data) is self.data  # true for iterators
        # An infinite `tf.data.Dataset` has the cardinality -1.
        cardinality = getattr(data, "cardinality", None)
        if steps is None and cardinality is not None and int(cardinality()) == -1:
            raise ValueError(
                "`steps` must be the number of mini-batches to use if the data set is "
                "infinite. Received: steps=None"
            )

    def __iter__(self) -> Iterator[Any]:
        try:
            length = len(self.data)
        except TypeError:  # a generator, or a data set of unknown or infinite size
            length = None
        sizes = [size for size in (length, self.steps) if size is not None]
        target = min(sizes, default=None)
        bar = keras.utils.Progbar(target, verbose=self.verbose, unit_name="batch")
        step = 0
        for batch in self.data:
            yield batch[0] if isinstance(batch, tuple) else batch
            step += 1
            bar.update(step, finalize=False)
            # Checked here, so that no mini-batch is read without being used.
            if step == self.steps:
                break
        bar.update(step, finalize=True)


def _estimate_together(model, layers, batches, method):
    """Estimate all layers in one pass, each normalizing by its mini-batch."""
    estimates = {id(layer): _Estimate(layer) for layer in layers}

    def observe(layer, moments):
        estimates[id(layer)].add(moments, method)

    with observe_moments(layers, observe, normalize_by_batch=True):
        for batch in batches:
            model(batch, training=False)
    for layer in layers:
        estimates[id(layer)].store(method)


def _estimate_layerwise(model, layers, batches):
    """Estimate one layer per pass, in the order in which the model calls them."""
    if batches.only_once:
        raise ValueError(
            "`data` must be readable once for each layer if the method is 'layerwise'. "
            f"Received: an iterator, {type(batches.data).__name__}. Pass a list or a "
            "data set."
        )
    # The order in which layers are listed is not always that in which they are called.
    call_order = []

    def observe_order(layer, moments):
        if layer not in call_order:
            call_order.append(layer)

    with observe_moments(layers, observe_order):
        for batch in batches:
            model(batch, training=False)
            break
    # A layer that is never called comes last; storing its estimate reports it.
    for layer in call_order + [layer for layer in layers if layer not in call_order]:
        estimate = _Estimate(layer)

        def observe(_, moments, estimate=estimate):
            estimate.add(moments, "pooled")

        with observe_moments([layer], observe):
            for batch in batches:
                model(batch, training=False)
        # Stored before the next pass, in which later layers must see its effect.
        estimate.store("pooled")


class _Estimate:
    """The estimated population of one layer, in float64, channel by channel."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        zeros = np.zeros(layer.moving_mean.shape)
        # With "algorithm2" the count is the number of mini-batches, and the mean and
        # the variance are averages over them; otherwise all three are those of the
        # union of the mini-batches.
        self.moments = Moments(zeros, zeros, zeros)
        self.batches = zeros

    def add(self, moments: Moments, method: str) -> None:
        """Add the moments of a mini-batch."""
        shape = self.moments.mean.shape
        # In float64: rounding errors would add up over thousands of mini-batches.
        count, mean, variance = (
            np.asarray(ops.convert_to_numpy(value), np.float64) for value in moments
        )
        count = np.broadcast_to(count, mean.shape).reshape(shape)
        mean, variance = mean.reshape(shape), variance.reshape(shape)
        usable = (count >= 2) & np.isfinite(mean + variance)
        self.batches = self.batches + usable
        # A count of 0 makes the rest of this function ignore a channel, but only if no
        # NaN is multiplied by it.
        count, mean, variance = (
            np.where(usable, value, 0) for value in (count, mean, variance)
        )
        if method == "algorithm2":
            variance = unbiased_variance(variance, count)
            number = self.moments.count + usable
            # A running mean: the newest of n values has the weight 1 / n.
            weight = usable / np.maximum(number, 1)
            self.moments = Moments(
                number,
                update_average(self.moments.mean, mean, weight),
                update_average(self.moments.variance, variance, weight),
            )
        else:
            self.moments = merge_moments(self.moments, Moments(count, mean, variance))

    def store(self, method: str) -> None:
        """Assign the estimate to the layer; channels without values do not change.

        Raises:
            ValueError: If no channel has values, or an estimate overflows its type.
        """
        count, mean, variance = self.moments
        has_values = count > 0
        if not has_values.any():
            raise ValueError(
                "Every layer must see at least one mini-batch with two finite values "
                f"or more per channel. Received: none for layer {self.layer.path!r}. "
                "Use larger mini-batches."
            )
        if method != "algorithm2":  # there each mini-batch was corrected by its own m
            variance = unbiased_variance(variance, count)
        layer = self.layer
        variables = [(layer.moving_mean, mean), (layer.moving_variance, variance)]
        if getattr(layer, "renorm", False):
            # Further training averages the deviation and computes the variance from it.
            stddev = np.sqrt(variance + layer.epsilon)
            variables.append((layer.moving_stddev, stddev))
        if getattr(layer, "averaging", "moving") != "moving":
            # Further training continues with the weight of all these mini-batches.
            variables.append((layer.updates, self.batches))
        for variable, value in variables:
            old = ops.convert_to_numpy(variable)
            with np.errstate(over="ignore"):  # reported below
                new = np.where(has_values, value, old).astype(old.dtype)
            if not np.isfinite(new[has_values]).all():
                raise ValueError(
                    f"The statistics must be finite in {old.dtype}. Received: layer "
                    f"{layer.path!r} with values up to {np.abs(value).max():.3g}. Use "
                    "bn_keras.BatchNormalization or a mixed policy."
                )
            variable.assign(new)


def _movements(layers, old_statistics):
    movements = {}
    for layer, (old_mean, old_variance) in zip(layers, old_statistics, strict=True):
        variance = ops.convert_to_numpy(layer.moving_variance)
        shift = np.abs(ops.convert_to_numpy(layer.moving_mean) - old_mean)
        # Layers of equal names in two nested models have equal paths.
        path, number = layer.path, 1
        while path in movements:
            number += 1
            path = f"{layer.path} ({number})"
        new, old = variance + layer.epsilon, old_variance + layer.epsilon
        movements[path] = Movement(
            float(np.max(shift / np.sqrt(new))),
            float(np.max(np.abs(np.log(new / old)))),
        )
    return movements
