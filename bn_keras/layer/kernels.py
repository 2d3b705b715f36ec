"""Normalization of a batch by its own moments, as fast as each backend can."""

from collections.abc import Sequence

import keras
from keras import ops

from bn_keras.layer.formulas import normalize, scale_distance
from bn_keras.layer.moments import Array, Moments, batch_moments, reduction_size
from bn_keras.layer.tensorflow_kernels import normalize_batch_tensorflow


def normalize_batch(
    inputs: Array,
    gamma: Array,
    beta: Array,
    axes: Sequence[int],
    epsilon: float,
    mask: Array = None,
    synchronized: bool = False,
) -> tuple[Array, Moments]:
    """Normalize a batch by its own moments; gradients flow through both of them.

    The result can be differentiated any number of times; on JAX in forward mode, too.

    Args:
        inputs: A tensor `(batch, ...)` of any floating-point type.
        gamma: The factor, of the rank of `inputs` with size 1 along `axes`, or None
            for 1.
        beta: The offset, likewise, or None for 0.
        axes: The axes over which the moments are computed.
        epsilon: The number that is added to the variance, inside the root.
        mask: A boolean tensor that broadcasts to `inputs`, or None. Values where it is
            False are normalized, but ignored by the moments.
        synchronized: Whether the moments are those of all replicas of `tf.distribute`.
            On JAX they are those of all shards of the inputs in any case.

    Returns:
        `(outputs, moments)`. In the moments the reduced axes have size 1. Gradients
        flow through them on JAX, but not on TensorFlow.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1 and section 3.
    """
    axes = tuple(axes)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return normalize_batch_tensorflow(
            inputs, gamma, beta, axes, epsilon, mask, synchronized
        )
    count = reduction_size(inputs, axes)
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    if backend == "jax" and mask is None and not (isinstance(count, int) and count < 1):
        # XLA sums pairwise: the short formula is exact enough. One tensor of distances
        # serves the variance and the outputs: with `inputs - mean` written twice, XLA
        # reads and writes the batch 18 times forward and backward instead of 15 times,
        # and needs one more of it in temporary memory (tests/layer/test_compiled.py).
        # Gradients of our own would save one pass and no time, and forbid `jax.jvp`.
        mean = ops.mean(inputs, axis=axes, keepdims=True)
        distance = inputs - mean
        variance = ops.mean(ops.square(distance), axis=axes, keepdims=True)
        outputs = scale_distance(distance, gamma, beta, variance, epsilon)
        return outputs, Moments(count, mean, variance)
    moments = batch_moments(inputs, axes, mask)
    outputs = normalize(inputs, gamma, beta, moments.mean, moments.variance, epsilon)
    return outputs, moments
