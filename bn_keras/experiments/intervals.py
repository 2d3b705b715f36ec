"""95% intervals of differences and ratios, and the verdicts that follow from them."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

YES, NO, UNDECIDED = "yes", "no", "undecided"
# The 97.5% quantile of Student's t for 1 to 30 degrees of freedom, from the usual
# tables; beyond them the normal quantile is at most 4% too small.
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_RESAMPLES = 2000
# A ratio has the paper's size if it is within this factor of the paper's number.
SIZE_FACTOR = 1.25


class Interval(NamedTuple):
    """An estimate and its 95% interval.

    Args:
        estimate: The mean over seeds; of ratios, their geometric mean.
        low: The lower end; minus infinity (of ratios, 0) if there is one seed only.
        high: The upper end; infinity if there is one seed only.
    """

    estimate: float
    low: float
    high: float


def mean_interval(values: ArrayLike) -> Interval:
    """Return the interval of a mean over seeds, by Student's t.

    Args:
        values: One value per seed, usually a paired difference.

    Example:
    ```python
    from bn_keras.experiments.intervals import mean_interval

    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2 and round(high - mean, 2) == 2.48  # 4.303 / sqrt(3)
    ```
    """
    values = np.asarray(values, float)
    if not values.size or np.isnan(values).any():
        return Interval(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, -np.inf, np.inf)
    error = values.std(ddof=1) / np.sqrt(values.size)
    half = _student(values.size - 1) * float(error)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike) -> Interval:
    """Return the interval of paired ratios, by Student's t on their logarithms.

    Args:
        numerators: One value per seed, not negative. Infinite ratios, from a training
            that diverged, count as the largest finite one, which is less than they
            are, so that they do not widen the interval.
        denominators: One value per seed, not negative.
    """
    values = cap_infinities(log_ratios(numerators, denominators))
    with np.errstate(over="ignore"):
        return Interval(*(float(np.exp(value)) for value in mean_interval(values)))


def log_ratios(numerators: ArrayLike, denominators: ArrayLike) -> np.ndarray:
    """Return the logarithms of ratios, infinite where one of the two is infinite or 0.

    Args:
        numerators: Numbers, not negative.
        denominators: As many numbers, not negative. Of two that are both infinite, or
            both 0, the logarithm is 0.
    """
    above, below = (np.asarray(v, float) for v in (numerators, denominators))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(above) - np.log(below)
    return np.where(above == below, 0.0, logs)


def cap_infinities(logs: ArrayLike) -> np.ndarray:
    """Return numbers with the largest, or smallest, finite one for each infinity.

    Args:
        logs: Numbers of which some may be infinite. If all are, they count as 1 or -1.
    """
    values = np.array(logs, float)
    finite = values[np.isfinite(values)]
    values[values == np.inf] = finite.max() if finite.size else 1.0
    values[values == -np.inf] = finite.min() if finite.size else -1.0
    return values


def accuracy_interval(correct: ArrayLike, others: ArrayLike) -> Interval:
    """Return the interval of a difference of accuracies, over seeds and test pictures.

    Both are resampled: the seeds, and the pictures, which are the same for all seeds.

    Args:
        correct: Whether each answer is correct, `(seeds, pictures)`.
        others: The same of the network that it is compared with, on the same pictures
            with the same seeds.

    Returns:
        The 2.5% and the 97.5% quantile of 2,000 resamples, not narrower than Student's
        interval over the seeds: few seeds resample their spread too small.
    """
    difference = np.asarray(correct, float) - np.asarray(others, float)
    seeds, pictures = difference.shape
    generator = np.random.default_rng(0)
    # Counts instead of copies: how often each seed and each picture was drawn.
    seed_counts = generator.multinomial(seeds, [1 / seeds] * seeds, _RESAMPLES)
    picture_counts = generator.multinomial(
        pictures, [1 / pictures] * pictures, _RESAMPLES
    )
    by_seed = picture_counts @ difference.T / pictures  # (resamples, seeds)
    means = (seed_counts * by_seed).sum(1) / seeds
    low, high = np.quantile(means, [0.025, 0.975])
    mean = float(difference.mean())
    if seeds > 1:
        student = mean_interval(difference.mean(1))
        low, high = min(low, student.low), max(high, student.high)
    return Interval(mean, float(low), float(high))


def is_above(interval: Interval, threshold: float) -> str:
    """Return whether the whole interval is above a number.

    Args:
        interval: The interval.
        threshold: The number.

    Returns:
        `"yes"`, `"no"` if the whole interval is below it, or `"undecided"`.
    """
    if interval.low > threshold:
        return YES
    return NO if interval.high < threshold else UNDECIDED


def is_within(interval: Interval, low: float, high: float) -> str:
    """Return whether the whole interval is within bounds that were fixed beforehand.

    Args:
        interval: The interval.
        low: The lower bound.
        high: The upper bound.

    Returns:
        `"yes"`, `"no"` if the whole interval is outside of them, or `"undecided"`.
    """
    if low <= interval.low and interval.high <= high:
        return YES
    return NO if interval.high < low or interval.low > high else UNDECIDED


def has_size(interval: Interval, number: float) -> str:
    """Return whether a ratio has the paper's size, within a factor of `SIZE_FACTOR`.

    Args:
        interval: The interval of the ratio.
        number: The paper's ratio.
    """
    return is_within(interval, number / SIZE_FACTOR, number * SIZE_FACTOR)


def isotonic(values: Sequence[float]) -> np.ndarray:
    """Return the rising curve that is closest to a curve in least squares.

    Args:
        values: The curve's points, `(points,)`.

    Returns:
        An array `(points,)` that never falls.

    Example:
    ```python
    from bn_keras.experiments.intervals import isotonic

    assert isotonic([1, 3, 2, 5]).tolist() == [1, 2.5, 2.5, 5]
    ```

    Reference:
        Ayer et al. 1955, the algorithm of pooled adjacent violators.
    """
    blocks: list[list[float]] = []  # mean and number of points of each
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, number = blocks[-1]
            total = number + count
            blocks[-1] = [(before * number + mean * count) / total, total]
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])


def _student(degrees: int) -> float:
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    return NormalDist().inv_cdf(0.975)
