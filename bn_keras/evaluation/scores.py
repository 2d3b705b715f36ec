"""Counts of right answers, and the accuracies that follow from them."""

from dataclasses import dataclass
from math import nan, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bn_keras.tables import html_table


class ClassScore(NamedTuple):
    """The accuracy of a model on the images of one class.

    Args:
        images: The number of images.
        top1: The share of them that the model got right. NaN if there are none.
        top5: The share of them with their class among the five most probable ones.
    """

    images: int
    top1: float
    top5: float

    def __repr__(self) -> str:
        return (
            f"ClassScore(images={self.images}, top1={self.top1:.4f}, "
            f"top5={self.top5:.4f})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The accuracy of a model on the images of a split.

    Args:
        confusion: int64 `(classes, classes)`, the number of images of the row's class
            that the model took for the column's class. Equal largest probabilities, or
            NaN, count as a wrong answer.
        top5_counts: int64 `(classes,)`, the number of images of each class that have
            it among the five most probable ones.

    Example:
    ```python
    import numpy as np
    from bn_keras.evaluation import Evaluation

    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 10]))
    assert (evaluation.images, evaluation.top1) == (20, 0.85)
    low, high = evaluation.top1_interval
    assert low < 0.85 < high
    ```
    """

    confusion: np.ndarray
    top5_counts: np.ndarray

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """The share of images whose most probable class is right."""
        return int(np.trace(self.confusion)) / self.images

    @property
    def top5(self) -> float:
        """The share of images with their class among the five most probable ones."""
        return int(self.top5_counts.sum()) / self.images

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95% confidence interval of `top1`, `(low, high)`."""
        return wilson_interval(int(np.trace(self.confusion)), self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """The 95% confidence interval of `top5`, `(low, high)`."""
        return wilson_interval(int(self.top5_counts.sum()), self.images)

    @property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The `ClassScore` of each class."""
        counts = self.confusion.sum(1), self.confusion.diagonal(), self.top5_counts
        return tuple(
            ClassScore(images, *(count / images if images else nan for count in right))
            for images, *right in zip(*(c.tolist() for c in counts), strict=True)
        )

    def __str__(self) -> str:
        """Return the figures, one a line."""
        lines = [f"images {self.images}"]
        lines += [
            f"{name} {share:.4f} ({low:.4f} to {high:.4f})"
            for name, share, (low, high) in self._rows()
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name}={share:.4f}" for name, share, _ in self._rows())
        return (
            f"Evaluation(images={self.images}, classes={len(self.confusion)}, {shares})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{share:.2%}", f"{low:.2%} to {high:.2%}")
            for name, share, (low, high) in self._rows()
        ]
        header = ("", "accuracy", "95% interval")
        return html_table(rows, header, f"{self.images:,} images")

    def _rows(self):
        yield "top1", self.top1, self.top1_interval
        yield "top5", self.top5, self.top5_interval


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the score interval of a binomial proportion.

    It holds all `p` with `|successes / trials - p| <= z sqrt(p (1 - p) / trials)`.

    Args:
        successes: The number of successes, from 0 to `trials`.
        trials: The number of trials, at least 1.
        confidence: The confidence level, above 0 and below 1.

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
    # Equation 4 multiplied by `trials`, so that counts stay exact integers.
    center = successes + z * z / 2
    half_width = z * sqrt(successes * failures / trials + z * z / 4)
    low, high = ((center + sign * half_width) / (trials + z * z) for sign in (-1, 1))
    # Rounding leaves 1e-17 where the bound is 0 or 1.
    return (low if successes else 0.0, high if failures else 1.0)


class Tally:
    """Counts right answers batch by batch.

    Args:
        classes: The number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.images = 0
        self._confusion = np.zeros((classes, classes), np.int64)
        self._top5_counts = np.zeros(classes, np.int64)

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Count the answers for some images.

        Args:
            probabilities: `(images, classes)`.
            labels: Integers `(images,)`.
        """
        rows = np.arange(len(labels))
        own = probabilities[rows, labels][:, np.newaxis]
        # The rank of the right class: the number of other classes that are not clearly
        # less probable. Comparing by "not less" instead of "greater" counts a tie, and
        # a NaN on either side, against the model: one that answers every class with
        # the same number, or has diverged, must not score. The right class is never
        # less than itself, hence the 1.
        rank = np.sum(~(probabilities < own), axis=-1) - 1
        # argmax over all classes would return the right one where it is the first of a
        # tie. So a wrong answer is the most probable of the other classes.
        others = probabilities.copy()
        others[rows, labels] = -np.inf
        answer = np.where(rank < 1, labels, others.argmax(-1))
        # `confusion[labels, answer] += 1` would count repeated pairs once.
        np.add.at(self._confusion, (labels, answer), 1)
        np.add.at(self._top5_counts, labels[rank < 5], 1)
        self.images += len(labels)

    def total(self) -> Evaluation:
        """Return the `Evaluation` of everything counted so far."""
        return Evaluation(self._confusion, self._top5_counts)
