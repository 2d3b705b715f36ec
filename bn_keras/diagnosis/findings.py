"""Rules that say what is wrong, from the measurements of a layer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from bn_keras.diagnosis.measuring import Measured
from bn_keras.diagnosis.report import Finding, LayerState, Outcome

KINDS = (
    *("not_finite", "never_updated", "gap", "drift", "frozen_moves"),
    *("few_values", "slow_momentum", "dead_channels", "tiny_variance"),
)
# A mean that is half a deviation off, or a variance off by a factor of 2, shifts a ReLU
# visibly. Estimates from few values scatter: by 1 / sqrt(values), here six times that.
MEAN_DRIFT = 0.5
VARIANCE_RATIO = 2.0
SCATTER = 6.0
# The deviation of a mean of 16 values is a quarter of that of the values.
FEW_VALUES = 16
# The share of the initial values in the moving averages.
INITIAL_SHARE = 0.01
# A gap of accuracy, or of the loss relative to it, below which nothing is said.
ACCURACY_GAP = 0.02
LOSS_GAP = 0.1
# Outputs that vary by less than this, where others vary by about 1, say nothing.
DEAD_DEVIATION = 1e-4


def describe_layer(measured: Measured) -> LayerState:
    """Return the numbers of a layer that the report shows."""
    epsilon = measured.layer.epsilon
    new = measured.fresh_variance + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):  # reported as not finite
        drift = np.abs(measured.stored_mean - measured.fresh_mean) / np.sqrt(new)
        log_ratio = np.abs(np.log((measured.stored_variance + epsilon) / new))
    dead = _dead_channels(measured)
    return LayerState(
        measured.path,
        len(new),
        float(np.max(drift)),
        float(np.exp(np.max(log_ratio))),
        measured.values,
        int(dead.sum()),
        int(((measured.fresh_variance < epsilon) & ~dead).sum()),
    )


def _dead_channels(measured: Measured) -> np.ndarray:
    variance, epsilon = measured.fresh_variance, measured.layer.epsilon
    deviation = np.sqrt(variance / (variance + epsilon + 1e-30))
    gamma = getattr(measured.layer, "gamma", None)
    if gamma is not None:
        deviation = deviation * np.abs(ops.convert_to_numpy(gamma).astype("f8").ravel())
    return deviation < DEAD_DEVIATION


def find_in_layer(
    measured: Measured, state: LayerState, steps: int | None
) -> Iterator[Finding]:
    """Yield what is wrong with a layer.

    Args:
        measured: Its measurements.
        state: Its numbers.
        steps: The number of training steps so far, None if it is not known.
    """
    layer, path = measured.layer, measured.path
    stored = np.stack([measured.stored_mean, measured.stored_variance])
    broken = ~np.isfinite(stored).all(0) | (measured.stored_variance < 0)
    untouched = (measured.stored_mean == 0).all() and (
        measured.stored_variance == 1
    ).all()
    if broken.any():
        yield Finding(
            "not_finite",
            path,
            1.0,
            f"the stored statistics of {broken.sum()} of {state.channels} channels are "
            "NaN, infinite or negative",
            "Every output is wrong. Find the step that diverged; to continue with "
            "these weights, call bn_keras.estimate_population_statistics. This "
            "package's layer skips mini-batches that are not finite.",
        )
    elif untouched:
        yield Finding(
            "never_updated",
            path,
            0.95,
            "the stored statistics are the initial values, mean 0 and variance 1",
            "The layer was never called with training=True while it was trainable. "
            "Pass `training` to it in your model's `call`, or call "
            "bn_keras.estimate_population_statistics.",
        )
    else:
        yield from _find_drift(measured, state)
    yield from _find_slow_momentum(measured, steps)
    if state.values < FEW_VALUES:
        yield Finding(
            "few_values",
            path,
            0.6 if state.values < 4 else 0.4,
            f"each mean of a mini-batch is of {state.values} values only",
            "Use larger mini-batches, or call bn_keras.replace_batch_normalization: "
            "with synchronized=True for several replicas, with frozen_statistics=True "
            "for fine-tuning, or with GroupNormalization.",
        )
    if not layer.trainable and measured.moves:
        yield Finding(
            "frozen_moves",
            path,
            0.7,
            "the layer is not trainable, but a training step changes its statistics",
            "Its class ignores `trainable`. Replace it by bn_keras.BatchNormalization.",
        )
    if state.dead:
        yield Finding(
            "dead_channels",
            path,
            0.3 * state.dead / state.channels + 0.05,
            f"{state.dead} of {state.channels} channels have constant outputs",
            "Their inputs do not vary on this data, or gamma is 0: prune them, or look "
            "for a learning rate or regularization that is too strong.",
        )
    if state.tiny:
        yield Finding(
            "tiny_variance",
            path,
            0.2 * state.tiny / state.channels + 0.05,
            f"the variance of {state.tiny} of {state.channels} channels is below "
            f"epsilon, {layer.epsilon:g}",
            "Epsilon decides their scale: scale the inputs of the layer, or take a "
            "smaller epsilon.",
        )


def _find_drift(measured: Measured, state: LayerState) -> Iterator[Finding]:
    scatter = SCATTER / np.sqrt(max(measured.seen, 1))
    mean_limit = MEAN_DRIFT + scatter
    ratio_limit = VARIANCE_RATIO * np.exp(scatter)
    if state.mean_drift > mean_limit or state.variance_ratio > ratio_limit:
        size = max(
            state.mean_drift / mean_limit,
            np.log(state.variance_ratio) / np.log(ratio_limit),
        )
        yield Finding(
            "drift",
            measured.path,
            float(0.5 + 0.4 * (1 - 1 / size)),
            "the stored mean differs from that of the data by up to "
            f"{state.mean_drift:.2g} standard deviations, the variance by a factor of "
            f"up to {state.variance_ratio:.3g}",
            "The weights or the data have changed since the statistics were computed: "
            "call "
            "bn_keras.estimate_population_statistics on data of the intended kind.",
        )


def _find_slow_momentum(measured: Measured, steps: int | None) -> Iterator[Finding]:
    layer = measured.layer
    moves = layer.trainable and not getattr(layer, "frozen_statistics", False)
    if not steps or not moves or getattr(layer, "averaging", "moving") != "moving":
        return
    share = layer.momentum**steps
    if share > INITIAL_SHARE:
        yield Finding(
            "slow_momentum",
            measured.path,
            float(0.3 + 0.5 * share),
            f"after {steps} steps with momentum {layer.momentum:g}, {share:.0%} of the "
            "stored statistics are their initial values",
            'Lower the momentum, use averaging="debiased", or call '
            "bn_keras.estimate_population_statistics after training.",
        )


def find_frozen_neighbors(model: Any, measured: list[Measured]) -> Iterator[Finding]:
    """Yield the layers that move although all other weights around them are frozen."""
    layers = {id(x.layer): x for x in measured}
    for block in model._flatten_layers():
        inside = [x for x in block._layers if x.variables]
        own = [layers[id(x)] for x in inside if id(x) in layers]
        others = [x for x in inside if id(x) not in layers and x.weights]
        if own and others and not any(x.trainable_variables for x in others):
            for x in own:
                if x.moves:
                    yield Finding(
                        "frozen_moves",
                        x.path,
                        0.65,
                        f"all other weights of {block.name!r} are frozen, but a "
                        "training step changes the statistics of this layer",
                        "Set frozen_statistics=True, or trainable=False, which freezes "
                        "gamma and beta, too.",
                    )


def find_gap(
    outcomes: dict[str, Outcome], difference: float
) -> tuple[list[Finding], float | None]:
    """Return a finding if training mode is better, and the share that can be removed.

    Args:
        outcomes: The outcomes of the three modes.
        difference: The difference of the outputs, relative to their deviation.
    """
    stored, batch, fresh = (outcomes[key] for key in ("stored", "batch", "fresh"))
    if stored.accuracy is not None:
        gap = batch.accuracy - stored.accuracy
        regained = fresh.accuracy - stored.accuracy
        is_large, text = gap > ACCURACY_GAP, f"accuracy {gap:.1%} lower"
    elif stored.loss is not None and batch.loss is not None:
        gap, regained = stored.loss - batch.loss, stored.loss - fresh.loss
        is_large = not gap <= LOSS_GAP * abs(batch.loss) + 1e-6
        text = f"loss {gap:.3g} higher"
    else:
        return [], None
    if not is_large:
        return [], None
    removed = float(regained / gap) if np.isfinite(gap) else 1.0
    advice = (
        "Call bn_keras.estimate_population_statistics."
        if removed > 0.5
        else "Re-estimation does not help: the model depends on the mini-batch. Train "
        "with larger mini-batches, renorm=True or frozen_statistics=True."
    )
    return [
        Finding(
            "gap",
            "",
            0.9,
            f"in inference mode the model is worse than in training mode: {text}; "
            f"re-estimation removes {removed:.0%} of the gap (outputs differ by "
            f"{difference:.2g} of their deviation)",
            advice,
        )
    ], removed
