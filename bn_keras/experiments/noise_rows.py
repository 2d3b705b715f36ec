"""The table about noise and p-norms: the claims and what was measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bn_keras.experiments.intervals import (
    Interval,
    is_above,
    mean_interval,
    ratio_interval,
)
from bn_keras.experiments.rows import (
    Row,
    count_seeds,
    mean_and_range,
    steps_to_accuracy,
    with_interval,
)

LABELS = {
    "none": "Without BN",
    "bn": "With BN",
    "noisy-bn": "With noisy BN",
    "noise": "Noise without BN",
    "l1": "L1",
    "l2": "L2",
    "linf": "L∞",
    "l1-centred": "L1, centered",
    "linf-centred": "L∞, centered",
}
NOISES = ("none", "bn", "noisy-bn", "noise")
NORMS = ("none", "bn", "l1", "l2", "linf", "l1-centred", "linf-centred")
# The data sets of all plans have ten classes.
CHANCE = 0.1
# "Similar" accuracies, fixed before the run: within so many points, or better.
MARGIN = 0.02


def rows(measurements: Mapping[str, Any]) -> list[Row]:
    """Compare what the paper says about noise and p-norms with what was measured."""
    networks, target = measurements["networks"], measurements["target"]
    compared = ("noisy-bn", "bn", "none")
    n = count_seeds(len(networks["none"]))
    final = {
        name: [seed["train"][-1] for seed in seeds] for name, seeds in networks.items()
    }
    where = "training accuracy without noise"
    texts = {name: mean_and_range(values, 100) for name, values in final.items()}

    def below(name, other):
        return mean_interval(np.subtract(final[other], final[name]))

    noisy = below("noisy-bn", "bn")
    better = below("none", "noisy-bn")
    # If the network without noise is at chance too, nothing is decided.
    learns = np.array(final["none"]) > 2 * CHANCE
    halfway = (CHANCE + np.array(final["none"])) / 2 - final["noise"]
    fails = mean_interval(np.where(learns, halfway, np.nan))
    return [
        *_rows_of_movement(networks, compared),
        Row(
            f"{where}: noisy BN below BN (points)",
            f"almost none (here: at most {100 * MARGIN:g})",
            f"{with_interval(_points(noisy), unit=' points')}; "
            f"{_join({name: texts[name] for name in compared})}",
            n,
            is_above(_negative(noisy), -MARGIN),
            fact="noisy-similar",
        ),
        Row(
            f"{where}: noisy BN above the network without BN (points)",
            "much better",
            with_interval(_points(better), unit=" points"),
            n,
            is_above(better, 0),
            fact="noisy-better",
        ),
        Row(
            f"{where}: noise without BN",
            "does not train (here: nearer to chance than to no noise)",
            f"{texts['noise']}%",
            n,
            is_above(fails, 0),
            fact="noise-fails",
        ),
        *[_row_of_norm(name, networks, n) for name in _norms(networks)],
        *[
            Row(
                f"{where}: {LABELS[name]} below BN (points)",
                "-",
                with_interval(_points(below(name, "bn")), unit=" points"),
                n,
            )
            for name in _norms(networks)
        ],
        _row_of_steps(measurements, networks, compared, target, n),
        Row(
            "test accuracy after the last step (%)",
            "-",
            _join(
                {
                    name: mean_and_range([seed["test"][-1] for seed in seeds], 100)
                    for name, seeds in networks.items()
                    if name != "noise"
                }
            ),
            n,
        ),
    ]


def _norms(networks):
    return [name for name in NORMS[2:] if name in networks]


def _row_of_norm(name, networks, n):
    """Compare a norm with BN where both use the statistics of the mini-batch."""
    judged = not name.endswith("-centred")
    accuracies = {
        key: np.array([seed["accuracy"] for seed in networks[key]])
        for key in (name, "bn")
    }
    quarter = max(accuracies["bn"].shape[1] // 4, 1)
    last = {key: of[:, -quarter:].mean(axis=1) for key, of in accuracies.items()}
    below = mean_interval(last["bn"] - last[name])
    return Row(
        f"last quarter of the training mini-batches: {LABELS[name]} below BN (points)",
        f"comparable (here: at most {100 * MARGIN:g})" if judged else "-",
        with_interval(_points(below), unit=" points"),
        n,
        is_above(_negative(below), -MARGIN) if judged else None,
        fact=f"vgg-{name}" if judged else "",
    )


def _row_of_steps(measurements, networks, compared, target, n):
    points = measurements["every"] * np.arange(
        1, 1 + len(networks["none"][0]["accuracy"])
    )
    steps = {
        name: [
            steps_to_accuracy(points.tolist(), seed["accuracy"], target)
            for seed in networks[name]
        ]
        for name in compared
    }
    last = int(points[-1])
    return Row(
        f"steps to {target:.0%} training accuracy, with noise",
        "-",
        _join({name: _describe_steps(steps[name], last) for name in compared}),
        n,
    )


def _rows_of_movement(networks, compared):
    """Compare how far the observed layers' inputs move in a step."""
    n = count_seeds(len(networks["none"]))
    table = [_row_of_instability(networks, n)]
    for layer in networks["none"][0]["instability"]:
        for moment in ("mean", "variance"):
            changes = {
                name: [seed["changes"][layer][moment] for seed in networks[name]]
                for name in compared
            }
            table.append(
                Row(
                    f"change of the {moment} of layer {layer}'s inputs, median",
                    "-",
                    _join({x: mean_and_range(c, digits=3) for x, c in changes.items()}),
                    n,
                )
            )
        # None, from a training that diverged, becomes NaN.
        movement = {
            name: np.array(
                [seed["instability"][layer] for seed in networks[name]], float
            )
            for name in compared
        }
        table.append(
            Row(
                f"movement of layer {layer}'s inputs per step, in standard deviations",
                "-",
                _join({x: mean_and_range(m, digits=3) for x, m in movement.items()}),
                n,
            )
        )
    return table


def _row_of_instability(networks, n):
    """Compare figure 8a: the absolute changes of the mean and of the variance."""
    logs = {
        name: [
            np.mean(
                [
                    np.log(np.array([*moments.values()], float))
                    for moments in seed["changes"].values()
                ]
            )
            for seed in networks[name]
        ]
        for name in ("noisy-bn", "none")
    }
    ratio = ratio_interval(np.exp(logs["noisy-bn"]), np.exp(logs["none"]))
    layers = ", ".join(networks["none"][0]["changes"])
    return Row(
        f"change of mean and variance per step, geometric mean over layers {layers}",
        "larger with noisy BN than without BN",
        f"noisy BN {with_interval(ratio, 2, ' times')} as large",
        n,
        is_above(ratio, 1),
        fact="noisy-unstable",
    )


def _points(interval):
    return Interval(*(100 * value for value in interval))


def _negative(interval):
    return Interval(-interval.estimate, -interval.high, -interval.low)


def _join(texts):
    return "; ".join(f"{LABELS[name]} {text}" for name, text in texts.items())


def _describe_steps(values, last):
    """Return such as `"150 (100 to 200)"`, and how many seeds never got there."""
    reached = [value for value in values if value is not None]
    texts = [mean_and_range(reached, digits=0)] if reached else []
    if never := len(values) - len(reached):
        texts.append(f"not within {last:,} ({never} of {count_seeds(len(values))})")
    return ", ".join(texts)
