"""The corrections of batch renormalization."""

from collections.abc import Mapping

from keras import ops

from bn_keras.layer.moments import Array

LIMITS = ("rmax", "rmin", "dmax")


def renorm_corrections(
    mean: Array,
    variance: Array,
    renorm_mean: Array,
    renorm_stddev: Array,
    epsilon: float,
    clipping: Mapping[str, float],
) -> tuple[Array, Array]:
    """Return the factor and the offset that renormalize a normalized batch.

    `r = sqrt(variance + epsilon) / renorm_stddev`, clipped to `[rmin, rmax]`;
    `d = (mean - renorm_mean) / renorm_stddev`, clipped to `[-dmax, dmax]`.
    The layer returns `gamma * (xhat * r + d) + beta`. No gradient flows through `r`
    and `d`.

    Args:
        mean: The mean of the batch.
        variance: The biased variance of the batch, of the same shape.
        renorm_mean: The moving average of the means.
        renorm_stddev: The moving average of the standard deviations. Values below
            `sqrt(epsilon)` count as `sqrt(epsilon)`.
        epsilon: The number that is added to the variance, inside the root.
        clipping: The limits: any of `rmax`, `rmin` and `dmax`.

    Returns:
        `(r, d)`, both of the shape of `mean`.

    Reference:
        Ioffe 2017, "Batch Renormalization", Algorithm 1 (arXiv 1702.03275).
    """
    deviation = ops.maximum(renorm_stddev, epsilon**0.5)
    r = ops.sqrt(variance + epsilon) / deviation
    d = (mean - renorm_mean) / deviation
    if clipping.get("rmin") is not None:
        r = ops.maximum(r, clipping["rmin"])
    if clipping.get("rmax") is not None:
        r = ops.minimum(r, clipping["rmax"])
    if clipping.get("dmax") is not None:
        d = ops.clip(d, -clipping["dmax"], clipping["dmax"])
    # Algorithm 1 treats both as constants when it differentiates.
    return ops.stop_gradient(r), ops.stop_gradient(d)


def standardize_clipping(clipping: Mapping[str, float] | None) -> dict[str, float]:
    """Return `renorm_clipping` as a dict.

    Args:
        clipping: A mapping with any of `rmax`, `rmin` and `dmax`, or None for no
            limits.

    Returns:
        A new dict.

    Raises:
        ValueError: If there is another key, `rmax < rmin`, or `dmax < 0`.
    """
    limits = dict(clipping or {})
    rmax, rmin, dmax = (limits.get(name) for name in LIMITS)
    if (
        not set(limits) <= set(LIMITS)
        or (rmax is not None and rmin is not None and rmax < rmin)
        or (dmax is not None and dmax < 0)
    ):
        raise ValueError(
            f"`renorm_clipping` may contain {', '.join(LIMITS)}, with rmin <= rmax and "
            f"dmax >= 0. Received: renorm_clipping={limits}"
        )
    return limits
