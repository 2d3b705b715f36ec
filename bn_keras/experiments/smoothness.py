"""How much rougher the loss is without BN: statistics that were fixed beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bn_keras.experiments.intervals import (
    cap_infinities,
    is_above,
    log_ratios,
    mean_interval,
    ratio_interval,
)
from bn_keras.experiments.rows import Row, count_seeds, with_interval

# The measures of smoothness, each with its curve: smaller is smoother.
MEASURES = {
    "loss variation": "loss_variation",
    "gradient predictiveness": "distance_most",
    "effective beta-smoothness": "smoothness",
}


def overflows_as_infinity(values: ArrayLike) -> np.ndarray:
    """Return the values of probes, with infinity for each overflow.

    Args:
        values: Numbers of any shape; None, NaN and infinity are overflows.
    """
    array = np.array(values, float)
    return np.where(np.isfinite(array), array, np.inf)


def geometric_mean_ratio(without: ArrayLike, with_bn: ArrayLike) -> float:
    """Return the geometric mean over the probes of how much rougher one network is.

    A probe that overflows counts as the largest finite ratio of the training; if most
    of them overflow, as in a training that diverged, the mean is infinite.

    Args:
        without: One value per probe.
        with_bn: One value per probe, at the same steps.
    """
    logs = log_ratios(*map(overflows_as_infinity, (without, with_bn)))
    median = np.median(logs)
    if not np.isfinite(median):
        return float(np.exp(median))  # infinity, or 0
    return float(np.exp(cap_infinities(logs).mean()))


def rows_of_smoothness(
    title: str,
    without: Sequence[Mapping[str, Any]],
    with_bn: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    normalization: str = "BN",
) -> list[Row]:
    """Compare the smoothness of two networks, one row per measure.

    Args:
        title: What was trained, and how.
        without: The curves of each seed without a normalization.
        with_bn: The curves of each seed with one.
        facts: A dict from each measure to the key of the paper's claim. A measure that
            is missing gets no verdict.
        normalization: How the rows call the normalization.
    """
    table = []
    for measure, key in MEASURES.items():
        pairs = [
            [overflows_as_infinity(seed[key]) for seed in seeds]
            for seeds in zip(without, with_bn, strict=True)
        ]
        means = [geometric_mean_ratio(*pair) for pair in pairs]
        share = np.mean([np.mean(one > other) for one, other in pairs])
        peak = ratio_interval(*np.array([[p.max() for p in x] for x in pairs]).T)
        ratio = ratio_interval(means, np.ones(len(means)))
        fact = facts.get(measure, "")
        table.append(
            Row(
                f"{title}: {measure}",
                f"smoother with {normalization}" if fact else "-",
                f"without {normalization} {with_interval(ratio, 2, ' times')} as "
                f"large, larger at {share:.0%} of the probes, peaks "
                f"{peak.estimate:.2g} times as high; by seed "
                f"{', '.join(f'{mean:.2g}' for mean in means)}",
                count_seeds(len(means)),
                is_above(ratio, 1) if fact else None,
                fact=fact,
            )
        )
    return table


def mean_cosines(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return each seed's mean cosine over the probes and the drawn layers.

    Args:
        seeds: The curves of each seed. Probes without a direction do not count.
    """
    return [
        float(np.nanmean(np.array([*seed["shift_cosine"].values()], float)))
        for seed in seeds
    ]


def shift_ratios(
    with_bn: Sequence[Mapping[str, Any]], without: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return how much larger the covariate shift is with BN, by seed.

    Args:
        with_bn: The curves of each seed with BN.
        without: The curves of each seed without BN.
    """
    return [
        float(
            np.exp(
                np.mean(
                    [
                        log_ratios(geometric_mean_ratio(one, other), 1.0)
                        for one, other in zip(
                            seed["shift_distance"].values(),
                            base["shift_distance"].values(),
                            strict=True,
                        )
                    ]
                )
            )
        )
        for seed, base in zip(with_bn, without, strict=True)
    ]


def describe_cosines(with_bn: Sequence[float], without: Sequence[float]) -> str:
    """Return the mean cosines with and without BN as text.

    Args:
        with_bn: One mean per seed.
        without: One mean per seed.
    """
    texts = [with_interval(mean_interval(of), 3) for of in (with_bn, without)]
    return "with BN {}, without BN {}".format(*texts)
