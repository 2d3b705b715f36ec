"""Theorem 4.1 of the second paper, checked numerically."""

from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.drawing import BLACK, BLUE, add_caption
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import NO, YES
from bn_keras.experiments.rounding import round_digits
from bn_keras.experiments.rows import Row, count_seeds


class TheoremPlan(NamedTuple):
    """The sizes of a scale."""

    batches: tuple[int, ...]  # numbers of examples
    units: int  # of the normalized layer
    seeds: int  # random networks of each kind


PLANS = {
    "smoke": TheoremPlan(batches=(8, 32), units=4, seeds=2),
    "default": TheoremPlan(batches=(8, 32, 128, 512), units=10, seeds=20),
    "full": TheoremPlan(batches=(8, 32, 128, 512, 2048), units=50, seeds=100),
}
# The loss after the layer: what follows it, by name.
LOSSES = ("linear", "tanh", "cross-entropy")


def _rounds(plan):
    """Compare both sides of the theorem in random networks.

    In the measurements, `"checks"` is a dict from the loss to a dict from the number of
    examples to what `check` returned for each seed.

    Reference:
        Santurkar et al. 2018, theorem 4.1 and its proof in appendix C.2.
    """
    trainings = {
        f"{loss}-{batch}": (check, {"loss": loss, "batch": batch, "units": plan.units})
        for loss in LOSSES
        for batch in plan.batches
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "checks": {
            loss: {str(batch): results[f"{loss}-{batch}"] for batch in plan.batches}
            for loss in LOSSES
        },
    }


def check(
    directories: Any, folder: Any, *, loss: str, batch: int, units: int, seed: int
) -> dict[str, Any]:
    """Compare both sides of the theorem for each unit of one random network.

    The gradients are exact, by the chain rule written out in float64. "Identical"
    networks: both losses have the same gradient by the layer's outputs. The batch
    normalized one receives `z = gamma * (y - mean) / sigma + beta`; with beta the mean
    and gamma sigma its outputs are those of the other (observation 4.3).

    Returns:
        A dict. `"error"` is the largest difference of the two sides, relative to the
        right one, with the factor 1/m before both squares: the bound is an equality.
        `"printed"` is the share of the units for which the bound is violated with the
        factor 1/sqrt(m) that the paper prints before the second square. `"ratio"` is
        the mean over units of the squared norm with BN over that without, times
        `sigma^2 / gamma^2`: less than 1 by the two squares alone. `"mean_share"` and
        `"inner_share"` are what each square takes away.
    """
    generator = np.random.default_rng((seed, batch, LOSSES.index(loss)))
    y = generator.normal(size=(batch, units)) * generator.uniform(0.5, 3, units)
    y += generator.normal(size=units)
    mean, sigma = y.mean(0), y.std(0)
    normalized = (y - mean) / sigma
    gamma, beta = generator.uniform(0.5, 2, units), generator.normal(size=units)
    z = gamma * normalized + beta
    to_z = _gradient(loss, z, generator)
    # Without BN the layer's outputs are z itself.
    without = np.square(to_z).sum(0)
    # Through the normalization: the Jacobian of each unit's batch, as a matrix.
    with_bn = np.empty(units)
    for unit in range(units):
        n = normalized[:, unit]
        jacobian = np.eye(batch) - 1 / batch - np.outer(n, n) / batch
        to_y = gamma[unit] / sigma[unit] * jacobian @ to_z[:, unit]
        with_bn[unit] = to_y @ to_y
    by_mean = np.square(to_z.sum(0)) / batch
    by_inner = np.square((to_z * normalized).sum(0)) / batch
    scale = np.square(gamma / sigma)
    right = scale * (without - by_mean - by_inner)
    printed = scale * (without - by_mean - np.sqrt(batch) * by_inner)
    return {
        "printed": float(np.mean(with_bn > printed * (1 + 1e-9))),
        "error": round_digits(np.max(np.abs(with_bn / right - 1))),
        "ratio": round_digits(np.mean(with_bn / (scale * without))),
        "mean_share": round_digits(np.mean(by_mean / without)),
        "inner_share": round_digits(np.mean(by_inner / without)),
    }


def _gradient(loss, z, generator):
    """Return the gradient of a loss by the outputs of the layer."""
    batch, units = z.shape
    if loss == "linear":
        return generator.normal(size=z.shape)
    weights = generator.normal(size=(units, 5)) / np.sqrt(units)
    hidden = np.tanh(z)
    logits = (hidden if loss == "tanh" else z) @ weights
    if loss == "tanh":
        targets = generator.normal(size=logits.shape)
        return (2 * (logits - targets) @ weights.T) * (1 - hidden**2) / batch
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponents / exponents.sum(1, keepdims=True)
    labels = np.eye(5)[generator.integers(5, size=batch)]
    return (probabilities - labels) @ weights.T / batch


def _rows(measurements):
    checks = measurements["checks"]
    every = [
        check
        for by_batch in checks.values()
        for of in by_batch.values()
        for check in of
    ]
    worst = max(check["error"] for check in every)
    seeds = measurements["plan"]["seeds"]
    table = [
        Row(
            "theorem 4.1 with factors 1/m: largest relative difference of its sides",
            "at most; an equality by the proof (here: below 1e-9)",
            f"{worst:.0e} in {len(every) * measurements['plan']['units']:,} units",
            count_seeds(seeds),
            YES if worst < 1e-9 else NO,
            fact="theorem",
        ),
        Row(
            "the same with the printed factor 1/sqrt(m) before the second square",
            "-",
            f"violated in {np.mean([check['printed'] for check in every]):.0%} of them",
            count_seeds(seeds),
        ),
    ]
    for loss, by_batch in checks.items():
        for batch in (min(by_batch, key=int), max(by_batch, key=int)):
            shares = {
                key: np.mean([check[key] for check in by_batch[batch]])
                for key in ("ratio", "mean_share", "inner_share")
            }
            table.append(
                Row(
                    f"{loss}, {batch} examples: share of the squared gradient left",
                    "-",
                    f"{shares['ratio']:.1%}; mean {shares['mean_share']:.1%}, "
                    f"inner product {shares['inner_share']:.1%}",
                    count_seeds(seeds),
                )
            )
    return table


def _plot(measurements):
    """Plot what the two squares take away, by the number of examples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    checks = measurements["checks"]
    panels = figure.subplots(1, len(checks), sharey=True)
    for axes, (loss, by_batch) in zip(panels, checks.items(), strict=True):
        sizes = np.array([int(batch) for batch in by_batch])
        # Beside each other, so that no bar hides another.
        for key, label, color, marker, shift in (
            ("mean_share", "mean of the gradient", BLACK, "o", 0.95),
            ("inner_share", "inner product with the output", BLUE, "s", 1.05),
        ):
            values = np.array(
                [[check[key] for check in of] for of in by_batch.values()]
            )
            mean = 100 * values.mean(1)
            axes.errorbar(
                shift * sizes,
                mean,
                [
                    mean - 100 * np.quantile(values, 0.1, axis=1),
                    100 * np.quantile(values, 0.9, axis=1) - mean,
                ],
                color=color,
                marker=marker,
                capsize=3,
                label=label,
            )
        axes.set_xscale("log", base=2)
        axes.set(title=loss, xlabel="examples in a mini-batch")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of the squared gradient (%)")
    panels[0].legend(fontsize="small")
    add_caption(
        figure,
        "What BN takes from the squared gradient beside the factor gamma^2 / sigma^2: "
        "mean over random networks, bars from the 10th to the 90th percentile.",
    )
    return figure


EXPERIMENT = Experiment(
    "theorem",
    "Theorem 4.1: the gradient with and without BN",
    PLANS,
    _rounds,
    _rows,
    _plot,
    lambda plan: {},
)
