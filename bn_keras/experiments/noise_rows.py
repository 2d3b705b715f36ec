"""The table about noise and p-norms: the claims and what was measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bn_keras.experiments.rows import Row, mean_and_range, steps_to_accuracy, verdict

LABELS = {
    "none": "Without BN",
    "bn": "With BN",
    "noisy-bn": "With noisy BN",
    "noise": "Noise without BN",
    "l1": "L1",
    "l2": "L2",
    "linf": "L∞",
}
NOISES = ("none", "bn", "noisy-bn", "noise")
NORMS = ("none", "bn", "l1", "l2", "linf")
# The data sets of all plans have ten classes.
CHANCE = 0.1
# The share of the way from the network without BN to that with it that counts as
# similar to BN.
SIMILAR = 0.75


def rows(measurements: Mapping[str, Any]) -> list[Row]:
    """Compare what the paper says about noise and p-norms with what was measured."""
    networks, target = measurements["networks"], measurements["target"]
    compared = ("noisy-bn", "bn", "none")
    points = measurements["every"] * np.arange(
        1, 1 + len(networks["none"][0]["accuracy"])
    )
    last = int(points[-1])
    steps = {
        name: [steps_to_accuracy(points, seed["accuracy"], target) for seed in seeds]
        for name, seeds in networks.items()
    }
    # A network that never reaches the target counts with all its steps.
    counted = {
        name: [last if value is None else value for value in values]
        for name, values in steps.items()
    }
    quarter = max(1, len(points) // 4)
    final = {
        name: [float(np.mean(seed["accuracy"][-quarter:])) for seed in seeds]
        for name, seeds in networks.items()
    }
    final_texts = {name: mean_and_range(values, 100) for name, values in final.items()}
    tests = {
        name: mean_and_range([seed["test"][-1] for seed in networks[name]], 100)
        for name in (*compared, *NORMS[2:])
        if name in networks
    }
    claim = "training accuracy over the last quarter (%)"
    halfway = (CHANCE + np.array(final["none"])) / 2
    learns = np.array(final["none"]) > 2 * CHANCE
    return [
        *_rows_of_movement(networks, compared),
        Row(
            f"steps to {target:.0%} training accuracy",
            "noisy BN similar to BN",
            _join({name: _describe_steps(steps[name], last) for name in compared}),
            _is_similar("noisy-bn", counted),
        ),
        Row(
            f"{claim}: noisy BN",
            "similar to BN",
            _join({name: final_texts[name] for name in compared}),
            _is_similar("noisy-bn", final),
        ),
        Row("final test accuracy (%)", "-", _join(tests)),
        Row(
            f"{claim}: noise without BN",
            "does not train",
            final_texts["noise"],
            # If the network without noise is at chance too, nothing is decided.
            verdict(np.where(learns, halfway - final["noise"], np.nan)),
        ),
        *[
            Row(
                f"{claim}: {LABELS[name]}",
                "similar to BN",
                final_texts[name],
                _is_similar(name, final),
            )
            for name in NORMS[2:]
            if name in networks
        ],
    ]


def _rows_of_movement(networks, compared):
    """Compare how far the observed layers' inputs move in a step."""
    table = []
    for layer in networks["none"][0]["instability"]:
        # None, from a training that diverged, becomes NaN.
        movement = {
            name: np.array(
                [seed["instability"][layer] for seed in networks[name]], float
            )
            for name in compared
        }
        texts = {name: mean_and_range(m, digits=3) for name, m in movement.items()}
        table.append(
            Row(
                f"movement of layer {layer}'s inputs per step, in standard deviations",
                "more with noisy BN than without BN",
                _join(texts),
                verdict(np.round(movement["noisy-bn"] - movement["none"], 3)),
            )
        )
    return table


def _join(texts):
    return "; ".join(f"{LABELS[name]} {text}" for name, text in texts.items())


def _describe_steps(values, last):
    """Return such as `"150 (100 to 200)"`, and how many seeds never got there."""
    reached = [value for value in values if value is not None]
    texts = [mean_and_range(reached, digits=0)] if reached else []
    if never := len(values) - len(reached):
        texts.append(f"not within {last:,} ({never} of {len(values)} seeds)")
    return ", ".join(texts)


def _is_similar(name, values):
    """Return whether a network covers most of the way from without BN to with BN."""
    network, bn, none = (np.array(values[key], float) for key in (name, "bn", "none"))
    # If BN makes no difference, nothing is decided.
    way = (network - none) / np.where(bn == none, np.nan, bn - none)
    return verdict(np.round(way - SIMILAR, 3))
