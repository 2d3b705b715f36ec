"""Estimate the population statistics of all layers of a model."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.layer.moment_collection import MomentCollector
from bn_keras.population.batches import Batches
from bn_keras.population.layer_estimate import LayerEstimate
from bn_keras.population.movement import Movement, measure_movements

METHODS = ("algorithm2", "pooled", "layerwise")


def estimate_population_statistics(
    model: keras.Model,
    data: Any,
    method: str = "algorithm2",
    steps: int | None = None,
    verbose: int = 1,
    *,
    include_frozen: bool = False,
    prior: keras.Model | None = None,
    prior_count: float | Literal["auto"] = 0,
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
      layers already run in inference mode. The data is read once for each layer, and
      each pass ends at that layer, so the time grows with the square of the number of
      layers.

    With the first two methods, each normalization layer normalizes by the moments of
    the mini-batch during the estimation. All other layers (such as dropout) run in
    inference mode. Trainable weights do not change, and neither do, unless
    `include_frozen` is set, layers with `trainable=False` or `frozen_statistics=True`.
    Layers may be nested, and may be Keras' or this package's. If the model calls a
    layer several times, each call counts as a mini-batch. Mini-batches with fewer than
    two values for a channel, or with moments that are not finite, are ignored for that
    channel. If the estimation fails or is interrupted, the old statistics are restored.

    The passes are compiled, except with `run_eagerly=True` and for models that cannot
    be compiled. Other threads may call the model meanwhile: they see the old statistics
    until the new ones are assigned at the end, layer by layer.

    Applied to data from a new domain this is domain adaptation: the weights are those
    of the old domain, the statistics those of the new one. If there are few examples of
    it, `prior_count` mixes both: with n examples, each statistic becomes
    `(prior_count * prior + n * estimate) / (prior_count + n)`. `"auto"`, for
    `"layerwise"`, chooses the share of the prior for each layer: it is large where the
    difference between both is as small as n examples of the old domain would make it by
    chance, and small where it is larger.

    Args:
        model: A Keras model of any kind. If it is not built, the first mini-batch
            builds it.
        data: An array `(examples, ...)`, which is divided evenly into mini-batches of
            at most 256, or an iterable of mini-batches: arrays `(batch, ...)`, for
            models of several inputs structures of them, or tuples whose first element
            is one of these (labels are ignored).
        method: `"algorithm2"`, `"pooled"` or `"layerwise"`.
        steps: The number of mini-batches to use, or None for all.
        verbose: 1 shows a progress bar, 0 does not.
        include_frozen: Whether to estimate layers with `trainable=False` or
            `frozen_statistics=True`, too, such as those of a frozen backbone.
        prior: A model with the same normalization layers, whose statistics are mixed
            with the estimates. None stands for the old statistics of `model`.
        prior_count: The number of examples as which the prior counts, or `"auto"`.

    Returns:
        A dict from the path of each layer to its `Movement`. If several layers have the
        same path, the later ones are numbered: `path (2)`.

    Raises:
        ValueError: If the method is unknown, `steps` is less than 1, the model has no
            layer to estimate statistics for, the method is `"layerwise"` and the data
            can be read only once, or is not and `prior_count` is `"auto"`, the layers
            of the prior are others, a prior has no count, or a layer sees no mini-batch
            with two values or more.

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
        'Batch' in BatchNorm", section 3, for `"pooled"` and `"layerwise"`; Schneider et
        al. 2020, "Improving robustness against common corruptions by covariate shift
        adaptation", section 3, for `prior_count`.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(f"`model` must be a Keras model. Received: {model!r}")
    check_arguments(
        data, method=method, steps=steps, prior=prior, prior_count=prior_count
    )
    batches = Batches(data, steps, verbose)
    _build(model, batches)
    layers = [
        layer
        for layer in _normalizations(model)
        if include_frozen
        or (layer.trainable and not getattr(layer, "frozen_statistics", False))
    ]
    if not layers:
        raise ValueError(
            "The model must have a batch-normalization layer that is not frozen. "
            f"Received: {type(model).__name__} {model.name!r} without one. Pass "
            "`include_frozen=True` to estimate layers with `trainable=False` or "
            "`frozen_statistics=True`."
        )
    priors = _prior_statistics(model, prior, layers)
    # All state of the layers, not only what is estimated: a failure must restore it.
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    saved_values = [ops.convert_to_numpy(variable) for variable in variables]
    old_statistics = [
        [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]
        for layer in layers
    ]
    estimates = {
        id(layer): LayerEstimate(layer, method, old_prior, prior_count)
        for layer, old_prior in zip(layers, priors, strict=True)
    }
    try:
        if method == "layerwise":
            _estimate_layerwise(model, layers, batches, estimates)
        else:
            _estimate_together(model, layers, batches, estimates)
    except BaseException:  # Ctrl-C, too
        for variable, value in zip(variables, saved_values, strict=True):
            variable.assign(value)
        raise
    return measure_movements(layers, old_statistics)


def check_arguments(
    data: Any,
    *,
    method: str = "algorithm2",
    steps: int | None = None,
    prior: keras.Model | None = None,
    prior_count: float | Literal["auto"] = 0,
) -> None:
    """Check arguments of `estimate_population_statistics`, without reading the data.

    Args:
        data: The argument `data`.
        method: The argument `method`.
        steps: The argument `steps`.
        prior: The argument `prior`.
        prior_count: The argument `prior_count`.

    Raises:
        ValueError: If an argument is invalid.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}"
        )
    if steps is not None and (
        not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 1
    ):
        raise ValueError(
            "`steps` must be None or an integer of at least 1. Received: "
            f"steps={steps!r}"
        )
    if isinstance(data, tuple | dict):
        raise ValueError(
            "`data` must be an array or an iterable of mini-batches. Received: a "
            f"single {type(data).__name__}. Pass it in a list: `[inputs]`."
        )
    is_array = hasattr(data, "shape")
    if isinstance(data, str | bytes) or not (is_array or isinstance(data, Iterable)):
        raise ValueError(
            "`data` must be an array or an iterable of mini-batches. Received: "
            f"{data!r}"
        )
    if is_array and not (len(data.shape) and data.shape[0]):
        raise ValueError(
            "`data` must have an example. Received: an array of shape "
            f"{tuple(data.shape)}"
        )
    is_auto = isinstance(prior_count, str) and prior_count == "auto"
    is_number = isinstance(prior_count, Real) and not isinstance(prior_count, bool)
    if not is_auto and not (is_number and 0 <= float(prior_count) < np.inf):
        raise ValueError(
            "`prior_count` must be a number of examples of at least 0, or 'auto'. "
            f"Received: prior_count={prior_count!r}"
        )
    if is_auto and method != "layerwise":
        raise ValueError(
            "`method` must be 'layerwise' with prior_count='auto', so that each layer "
            f"sees what the mixed statistics of the others give. Received: {method!r}"
        )
    if prior is not None and not isinstance(prior, keras.Layer):
        raise ValueError(f"`prior` must be None or a Keras model. Received: {prior!r}")
    if prior is not None and not is_auto and prior_count == 0:
        raise ValueError(
            "`prior_count` must be above 0 if there is a `prior`. Received: "
            "prior_count=0, with which the prior counts as nothing"
        )
    batches = Batches(data, steps, verbose=0)
    if method == "layerwise" and batches.only_once:
        raise ValueError(
            "`data` must be readable once for each layer if the method is 'layerwise'. "
            f"Received: an iterator, {type(batches.data).__name__}. Pass a list or a "
            "data set."
        )


def _normalizations(model):
    # At any depth; Keras has no public way.
    return [x for x in model._flatten_layers() if isinstance(x, BATCH_NORMALIZATIONS)]


def _build(model, batches):
    if model.built and all(layer.built for layer in _normalizations(model)):
        return
    batch = batches.first()
    if batch is not None:
        model(batch, training=False)


def _prior_statistics(model, prior, layers) -> list[list[np.ndarray]]:
    """Return the mean and variance of the prior for each of the layers."""
    others = _normalizations(model if prior is None else prior)
    own = _normalizations(model)
    shapes = [
        [tuple(x.moving_mean.shape) if x.built else None for x in group]
        for group in (own, others)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`prior` must be built and have the batch normalizations of the model. "
            f"Received: shapes {shapes[1]} instead of {shapes[0]}"
        )
    positions = {id(layer): other for layer, other in zip(own, others, strict=True)}
    return [
        [
            np.asarray(ops.convert_to_numpy(weight), np.float64)
            for weight in (
                positions[id(layer)].moving_mean,
                positions[id(layer)].moving_variance,
            )
        ]
        for layer in layers
    ]


def _estimate_together(model, layers, batches, estimates):
    """Estimate all layers in one pass, each normalizing by its mini-batch."""
    collect = MomentCollector(model, layers, normalize_by_batch=True)
    for batch in batches:
        for layer, moments in collect(batch):
            estimates[id(layer)].add(moments)
        for estimate in estimates.values():
            estimate.end_batch(batches.batch_size)
    for layer in layers:
        estimates[id(layer)].store()


def _estimate_layerwise(model, layers, batches, estimates):
    """Estimate one layer per pass, in the order in which the model calls them."""
    # The order in which layers are listed is not always that in which they are called.
    calls = []
    for batch in batches:
        collect = MomentCollector(model, layers, eager_calls=1)
        calls = [layer for layer, _ in collect(batch)]
        break
    # A layer that is never called comes last; storing its estimate reports it.
    for layer in dict.fromkeys([*calls, *layers]):
        # The moments of layers behind this one are not needed.
        collect = MomentCollector(
            model, [layer], last_call=calls.count(layer), eager_calls=4
        )
        estimate = estimates[id(layer)]
        for batch in batches:
            for _, moments in collect(batch):
                estimate.add(moments)
            estimate.end_batch(batches.batch_size)
        # Stored before the next pass, in which later layers must see its effect.
        estimate.store()
