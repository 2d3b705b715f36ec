"""Counts of right answers and what follows from them.

Knows counts; no model and no data.
"""

from dataclasses import dataclass, field
from math import nan, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class ClassScore(NamedTuple):
    """How a model did on the pictures of one class.

    Args:
        images: their number.
        top1: share of them that it got right; NaN where there are none.
        top5: share of them with their class among the five most probable ones.
    """

    images: int
    top1: float
    top5: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model did on pictures.

    Args:
        confusion: int64 `(classes, classes)`, number of pictures of the row's class
            that were taken for the column's. An undecided answer, two equally probable
            classes or NaN, counts as the wrong one.
        among_five: int64 `(classes,)`, pictures of each class that have it among the
            five most probable ones.

    Example:
    ```python
    import numpy as np
    from bn_keras.evaluation import Evaluation

    found = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 10]))
    assert (found.images, found.top1) == (20, 0.85)
    low, high = found.top1_interval
    assert low < 0.85 < high
    ```
    """

    confusion: np.ndarray = field(repr=False)
    among_five: np.ndarray = field(repr=False)

    @property
    def images(self):
        """Number of pictures."""
        return int(self.confusion.sum())

    @property
    def top1(self):
        """Share of right answers."""
        return int(np.trace(self.confusion)) / self.images

    @property
    def top5(self):
        """Share of pictures with their class among the five most probable ones."""
        return int(self.among_five.sum()) / self.images

    @property
    def top1_interval(self):
        """The 95 % interval of `top1`, `(low, high)`."""
        return wilson_interval(int(np.trace(self.confusion)), self.images)

    @property
    def top5_interval(self):
        """The 95 % interval of `top5`, `(low, high)`."""
        return wilson_interval(int(self.among_five.sum()), self.images)

    @property
    def per_class(self):
        """A tuple of `ClassScore`, one for each class."""
        counts = self.confusion.sum(1), self.confusion.diagonal(), self.among_five
        return tuple(
            ClassScore(images, *(count / images if images else nan for count in right))
            for images, *right in zip(*(c.tolist() for c in counts), strict=True)
        )

    def __str__(self):
        """The figures, one a line."""
        lines = [f"images {self.images}"]
        for name in ("top1", "top5"):
            low, high = getattr(self, f"{name}_interval")
            lines.append(f"{name} {getattr(self, name):.4f} ({low:.4f} to {high:.4f})")
        return "\n".join(lines)


def wilson_interval(successes, trials, confidence=0.95):
    """The score interval of a binomial proportion.

    All `p` with `|successes / trials - p| <= z sqrt(p (1 - p) / trials)`.

    Args:
        successes: 0 to `trials`.
        trials: 1 or more.
        confidence: 0 to 1, exclusive.

    Returns:
        `(low, high)`.

    Example:
    ```python
    from bn_keras.evaluation import wilson_interval

    low, high = wilson_interval(37_500, 50_000)
    assert high - low < 0.008
    ```

    Reference:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical
        Inference"; Brown, Cai & DasGupta 2001, "Interval Estimation for a Binomial
        Proportion", equation 4.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    failures = trials - successes
    centre = successes + z * z / 2
    half = z * sqrt(successes * failures / trials + z * z / 4)
    low, high = ((centre + sign * half) / (trials + z * z) for sign in (-1, 1))
    # Rounding leaves 1e-17 where the bound is 0 or 1.
    return (low if successes else 0.0, high if failures else 1.0)


class Tally:
    """Counts that grow with every batch.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes):
        self.images = 0
        self._confusion = np.zeros((classes, classes), np.int64)
        self._among_five = np.zeros(classes, np.int64)

    def add(self, probabilities, labels):
        """Count the answers to some pictures.

        Args:
            probabilities: `(pictures, classes)`.
            labels: integers `(pictures,)`.
        """
        every = np.arange(len(labels))
        own = probabilities[every, labels][:, np.newaxis]
        # Ties and NaN count against the model.
        rank = np.sum(~(probabilities < own), axis=-1) - 1
        others = probabilities.copy()
        others[every, labels] = -np.inf
        answer = np.where(rank < 1, labels, others.argmax(-1))
        np.add.at(self._confusion, (labels, answer), 1)
        np.add.at(self._among_five, labels[rank < 5], 1)
        self.images += len(labels)

    def total(self):
        """The `Evaluation` of all that was counted."""
        return Evaluation(self._confusion, self._among_five)
