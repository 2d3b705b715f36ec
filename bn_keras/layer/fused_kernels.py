"""TensorFlow's fused batch-normalization kernels, guarded against inexact sums."""

from typing import Any

from bn_keras.layer.moments import Array

# The kernel for training uses plain float32 sums. The larger a sum is compared with the
# deviation of its terms, the more digits of the mean are lost, and the error of the
# mean goes into the variance. Below both limits the variance is within 1e-3 of the
# exact one (`test_a_far_mean` in tests/layer/test_kernels.py).
LARGE_SUM = 1e7
FAR_MEAN = 30.0


def normalize_fused(
    inputs: Array, gamma: Array, beta: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Normalize a batch by its own moments.

    Args:
        inputs: A tensor `(batch, height, width, channels)` of float32, float16 or
            bfloat16.
        gamma: A float32 tensor `(channels,)`.
        beta: A float32 tensor `(channels,)`.
        epsilon: The number that is added to the variance.

    Returns:
        `(outputs, mean, variance)`, the moments in float32 and of shape `(channels,)`.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def kernel(x, gamma, beta) -> Any:
        run = _run_guarded(x, gamma, beta, epsilon)

        def gradient(dy, _mean_cotangent, _variance_cotangent):
            # TensorFlow has a gradient of this operation, for second derivatives. The
            # inputs must be those of the run whose moments are reserved. They are
            # shifted again, because keeping them would need the memory of a batch.
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=tf.cond(run.is_far, lambda: x - run.shift, lambda: x),
                scale=gamma,
                reserve_space_1=run.reserved[0],
                reserve_space_2=run.reserved[1],
                reserve_space_3=run.reserved[2],
                epsilon=epsilon,
                is_training=True,
            )[:3]

        return (run.outputs, run.mean, run.variance), gradient

    return kernel(inputs, gamma, beta)


def moments_fused(inputs: Array, epsilon: float) -> tuple[Array, Array]:
    """Return the mean and the biased variance of each channel; no gradients.

    Args:
        inputs: A tensor `(batch, height, width, channels)`, as in `normalize_fused`.
        epsilon: A small number, compared with which variances do not matter.
    """
    import tensorflow as tf

    ones = tf.ones([tf.shape(inputs)[-1]])
    run = _run_guarded(inputs, ones, ones, epsilon)
    return run.mean, run.variance


class _Run:
    """What one guarded run of the kernel returns."""

    outputs: Any
    mean: Any
    variance: Any
    shift: Any
    is_far: Any
    reserved: Any


def _run_guarded(x: Any, gamma: Any, beta: Any, epsilon: float) -> _Run:
    """Run the kernel, a second time where its first sums are inexact."""
    import tensorflow as tf

    unused = tf.zeros([0])  # moving moments, which the kernel takes for inference only

    def forward(x):
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=unused,
            variance=unused,
            epsilon=epsilon,
            is_training=True,
        )

    result = _Run()
    unshifted = forward(x)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    deviation = tf.sqrt(unshifted.batch_variance + epsilon)
    limit = deviation * tf.minimum(LARGE_SUM / tf.maximum(count, 1), FAR_MEAN)
    # One such channel is enough: the kernel runs again on all channels. NaN is not
    # greater than anything, so it does not cause a second run.
    result.is_far = tf.reduce_any(tf.abs(unshifted.batch_mean) > limit)

    def compute_exact_mean():
        # The mean of what is left after subtracting the inexact mean: first over the
        # positions of an example, then over the examples, so no sum is long.
        rough = tf.cast(unshifted.batch_mean, x.dtype)
        rest = tf.reduce_mean(tf.cast(x - rough, tf.float32), (1, 2))
        return tf.cast(tf.cast(rough, tf.float32) + tf.reduce_mean(rest, 0), x.dtype)

    # A shift of the inputs changes neither the outputs nor the variance nor any
    # gradient, so the second run may subtract the mean first, rounded to the inputs'
    # dtype. If no channel is far, which is the usual case, `tf.cond` computes nothing.
    def run_again():
        shift = compute_exact_mean()
        return (shift, *forward(x - shift))

    def keep():
        return (tf.zeros_like(unshifted.batch_mean, x.dtype), *unshifted)

    result.shift, outputs, mean, unbiased, *result.reserved = tf.cond(
        result.is_far, run_again, keep
    )
    result.outputs = outputs
    result.mean = mean + tf.cast(result.shift, tf.float32)
    # The kernel returns m / (m - 1) times the variance that it normalized by. For one
    # value it divides by 1 instead of 0.
    result.variance = unbiased * (tf.maximum(count - 1, 1) / tf.maximum(count, 1))
    return result


def normalize_by(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    epsilon: float,
) -> Array:
    """Normalize by given moments; gradients flow to the inputs, gamma and beta.

    Args:
        inputs: A tensor `(batch, height, width, channels)`, as in `normalize_fused`.
        gamma: A float32 tensor `(channels,)`.
        beta: Likewise, as are the mean and the variance.
        mean: The mean.
        variance: The variance.
        epsilon: The number that is added to the variance.
    """
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def gradients_by(
    dy: Array, inputs: Array, gamma: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Return the gradients of `normalize_by` by inputs, gamma and beta."""
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=inputs,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=tf.zeros([0]),
        epsilon=epsilon,
        is_training=False,
    )[:3]
