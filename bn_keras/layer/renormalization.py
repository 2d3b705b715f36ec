"""Batch renormalization: corrections that tie a batch's moments to their averages.

Arrays in, arrays out, with Keras' names and clipping. Knows no layer.
"""

from keras import ops

LIMITS = ("rmax", "rmin", "dmax")


def renorm_corrections(mean, variance, renorm_mean, renorm_stddev, epsilon, clipping):
    """The factor and offset that renormalize `xhat`, as constants of the gradient.

    `r = sqrt(variance + epsilon) / renorm_stddev`, clipped to `[rmin, rmax]`;
    `d = (mean - renorm_mean) / renorm_stddev`, clipped to `[-dmax, dmax]`;
    the layer answers `gamma * (xhat * r + d) + beta`.

    Args:
        mean, variance: moments of the batch.
        renorm_mean, renorm_stddev: their moving averages; the latter counts as
            `sqrt(epsilon)` at least.
        epsilon: added to the variance, inside the root.
        clipping: dict of any of `rmax`, `rmin`, `dmax`.

    Returns:
        `(r, d)`, of the moments' shape.

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
    return ops.stop_gradient(r), ops.stop_gradient(d)


def standardize_clipping(clipping):
    """`renorm_clipping` as a dict.

    Args:
        clipping: a dict of any of `rmax`, `rmin`, `dmax`; or None for none of them.

    Raises:
        ValueError: for another key, `rmax < rmin`, or `dmax < 0`.
    """
    clipping = dict(clipping or {})
    rmax, rmin, dmax = (clipping.get(limit) for limit in LIMITS)
    if (
        not set(clipping) <= set(LIMITS)
        or (rmax is not None and rmin is not None and rmax < rmin)
        or (dmax is not None and dmax < 0)
    ):
        raise ValueError(
            f"`renorm_clipping` may hold {', '.join(LIMITS)}, with rmin <= rmax and "
            f"dmax >= 0. Received: renorm_clipping={clipping}"
        )
    return clipping
