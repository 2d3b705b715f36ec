"""The estimated population of one layer."""

from typing import Any

import numpy as np
from keras import ops

from bn_keras.layer.moments import Moments, merge_moments, unbiased_variance
from bn_keras.layer.moving_statistics import update_average


class LayerEstimate:
    """The estimated population of one layer, in float64, channel by channel."""

    def __init__(
        self,
        layer: Any,
        method: str,
        prior: list[np.ndarray],
        prior_count: float | str,
    ) -> None:
        self.layer = layer
        self.method = method
        self.prior = prior
        self.prior_count = prior_count
        zeros = np.zeros(layer.moving_mean.shape)
        # With "algorithm2" the count is the number of mini-batches, and the mean and
        # the variance are averages over them; otherwise all three are those of the
        # union of the mini-batches.
        self.moments = Moments(zeros, zeros, zeros)
        self.batches = zeros
        self.examples = 0  # of the mini-batches with usable moments
        self._is_used = False  # whether the current one has some

    def add(self, moments: Moments) -> None:
        """Add the moments of a mini-batch."""
        shape = self.moments.mean.shape
        # In float64: rounding errors would add up over thousands of mini-batches.
        count, mean, variance = (np.asarray(value, np.float64) for value in moments)
        count = np.broadcast_to(count, mean.shape).reshape(shape)
        mean, variance = mean.reshape(shape), variance.reshape(shape)
        usable = (count >= 2) & np.isfinite(mean + variance)
        self.batches = self.batches + usable
        self._is_used |= bool(usable.any())
        # A count of 0 makes the rest of this function ignore a channel, but only if no
        # NaN is multiplied by it.
        count, mean, variance = (
            np.where(usable, value, 0) for value in (count, mean, variance)
        )
        if self.method == "algorithm2":
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

    def end_batch(self, examples: int) -> None:
        """Count the examples of a mini-batch, all calls of which have been added."""
        self.examples += examples if self._is_used else 0
        self._is_used = False

    def store(self) -> None:
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
                "Use larger mini-batches, without NaN and infinity."
            )
        if self.method != "algorithm2":  # there each mini-batch had its own m
            variance = unbiased_variance(variance, count)
        if self.prior_count:
            mean, variance = self._mix_with_prior(mean, variance, has_values)
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

    def _mix_with_prior(self, mean, variance, has_values):
        """Return the statistics mixed with those of the prior, where it has any."""
        epsilon, old_variance = self.layer.epsilon, self.prior[1]
        usable = has_values & np.isfinite(self.prior[0]) & np.isfinite(old_variance)
        # Without epsilon, a variance of 0 has no logarithm.
        usable &= (old_variance >= 0) & (
            np.minimum(variance, old_variance) + epsilon > 0
        )
        if not usable.any():
            return mean, variance
        old = [statistic[usable] for statistic in self.prior]
        new = [mean[usable], variance[usable]]
        if self.prior_count == "auto":
            share = plausible_share(old, new, self.examples, epsilon)
            # The logarithms, as a variance is a scale: half way from 1/16 to 1 is 1/4.
            old_log, new_log = (np.log(values[1] + epsilon) for values in (old, new))
            log = update_average(new_log, old_log, share)
            mixed = np.maximum(np.exp(log) - epsilon, 0)
        else:
            share = self.prior_count / (self.prior_count + self.examples)
            mixed = update_average(new[1], old[1], share)
        mean, variance = mean.copy(), variance.copy()
        mean[usable] = update_average(new[0], old[0], share)
        variance[usable] = mixed
        return mean, variance


def plausible_share(
    old: list[np.ndarray], new: list[np.ndarray], examples: int, epsilon: float
) -> float:
    """Return the share of the old statistics in a mixture with new ones.

    It is the squared difference between both that is expected by chance if the domain
    is unchanged, divided by the observed one, each a mean over all channels; at most 1.
    For n independent Gaussian examples, the mean has the variance `variance / n`, and
    the logarithm of the variance has the variance `trigamma((n - 1) / 2)` and a known
    bias. Both are upper bounds for layers that see several positions of an example. The
    smaller of the two shares counts: a mean and a variance taken from different domains
    match neither.

    Args:
        old: The means and the variances of the channels, float64 arrays `(channels,)`.
        new: Likewise; the variances are unbiased. They are the better guess of the
            variance in the new domain, so chance is computed with them.
        examples: The number of examples of `new`. Of one, two are assumed.
        epsilon: What the layer adds to each variance: channels with less variance, such
            as those that are always 0, do not count.

    Reference:
        Efron & Morris 1973, "Stein's estimation rule and its competitors", for shares
        that are estimated from all channels together.
    """
    (old_mean, old_variance), (new_mean, new_variance) = old, new
    scale = old_variance + epsilon
    half = max(examples - 1, 1) / 2
    # The asymptotic series of digamma(half) - log(half) and of trigamma(half): within
    # 8% for two examples, 2% for three, less for more.
    bias = -1 / (2 * half) - 1 / (12 * half**2)
    trigamma = 1 / half + 1 / (2 * half**2) + 1 / (6 * half**3)
    # How much log(variance + epsilon) changes with log(variance).
    slope = new_variance / (new_variance + epsilon)
    logs = np.log((new_variance + epsilon) / scale) - bias * slope
    # Ratios of means: the variance of one channel of few examples is too uncertain.
    pairs = (
        ((new_variance / scale).mean() / examples, (new_mean - old_mean) ** 2 / scale),
        ((trigamma * slope**2).mean(), logs**2),
    )
    shares = [1.0]
    for expected, observed in pairs:
        if observed.mean() > expected:
            shares.append(expected / observed.mean())
    return float(min(shares))
