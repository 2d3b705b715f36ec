"""Normalization of a batch by its own moments on TensorFlow: which kernel, and when."""

from math import prod
from typing import Any

from keras import ops

from bn_keras.layer.formulas import gradients, normalize
from bn_keras.layer.fused_kernels import normalize_fused
from bn_keras.layer.fused_layout import FusedLayout
from bn_keras.layer.merged_kernels import normalize_by_statistics, normalize_merged
from bn_keras.layer.moments import Array, Moments, batch_moments, reduction_size
from bn_keras.layer.replicas import merge_across_replicas

# With fewer values the formula is faster on a CPU than the fused kernel, whose start-up
# and whose guard take some 0.4 ms (`python -m benchmarks.layer --kernels`).
FEWEST_VALUES = 2**17
# Behind more values a plain sum of squares loses 1e-3 of a variance, even at mean 0
# (`test_a_far_mean` in tests/layer/test_kernels.py).
MOST_VALUES_OF_A_SUM = 2**21
# What a batch of unknown size is taken for when a kernel is chosen.
NOMINAL_BATCH = 64


def normalize_batch_tensorflow(
    inputs: Array,
    gamma: Array,
    beta: Array,
    axes: tuple[int, ...],
    epsilon: float,
    mask: Array = None,
    synchronized: bool = False,
) -> tuple[Array, Moments]:
    """Normalize a batch by a fused kernel where it is exact and faster.

    Everywhere else the formulas are used. The result can be differentiated any number
    of times.

    Args:
        inputs: A tensor `(batch, ...)` of any floating-point type.
        gamma: The factor, of the rank of `inputs` with size 1 along `axes`, or None
            for 1.
        beta: The offset, likewise, or None for 0.
        axes: The axes over which the moments are computed, in ascending order.
        epsilon: The number that is added to the variance, inside the root.
        mask: A boolean tensor that broadcasts to `inputs`, or None.
        synchronized: Whether the moments are those of all replicas together.

    Returns:
        `(outputs, moments)`, the moments with size 1 along `axes`. No gradient flows
        through the moments. Outputs of float16 and bfloat16 inputs may be rounded to
        the inputs' type.
    """
    on_gpu = is_on_gpu(inputs)
    if not _serves(inputs, axes, on_gpu, synchronized):
        inputs = ops.cast(inputs, _statistics_dtype(inputs))
        if mask is None and not synchronized:
            return _stop_gradients(
                *_normalize_by_formula(inputs, gamma, beta, axes, epsilon, on_gpu)
            )
        moments = batch_moments(inputs, axes, mask)
        if synchronized:
            moments = merge_across_replicas(moments)
        _, mean, variance = moments
        outputs = normalize(inputs, gamma, beta, mean, variance, epsilon)
        return _stop_gradients(outputs, moments)
    layout = FusedLayout(inputs, axes, not on_gpu, across_examples=not synchronized)
    gamma, beta = _both_weights(gamma, beta, layout)
    if mask is None and not synchronized and layout.folds == 1:
        # Inputs of float16 and bfloat16 stay as they are: in this kernel's mixed form
        # the moments, gamma and beta are of float32.
        outputs, mean, variance = normalize_fused(
            layout.pack(inputs),
            layout.pack_weight(gamma),
            layout.pack_weight(beta),
            epsilon,
        )
        moments = Moments(
            reduction_size(inputs, axes),
            layout.unpack_weight(mean),
            layout.unpack_weight(variance),
        )
        return _stop_gradients(layout.unpack(outputs), moments)
    return _stop_gradients(
        *normalize_merged(
            ops.cast(inputs, "float32"),
            gamma,
            beta,
            layout,
            axes,
            epsilon,
            mask,
            synchronized,
        )
    )


def normalize_frozen_tensorflow(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> Array:
    """Normalize by given statistics in training: the kernel has a fast gradient.

    Args:
        inputs: A tensor `(batch, ...)` of float32 or float64.
        gamma: The factor, as in `normalize_batch_tensorflow`.
        beta: The offset, likewise.
        mean: The mean, of the rank of `inputs`. No gradient flows to it.
        variance: The variance, likewise.
        axes: The axes along which the statistics do not vary.
        epsilon: The number that is added to the variance.
    """
    on_gpu = is_on_gpu(inputs)
    if not _serves(inputs, axes, on_gpu):
        return normalize(inputs, gamma, beta, mean, variance, epsilon)
    layout = FusedLayout(inputs, axes, fold=not on_gpu)
    gamma, beta = _both_weights(gamma, beta, layout)
    return normalize_by_statistics(inputs, gamma, beta, mean, variance, layout, epsilon)


def is_on_gpu(tensor: Array) -> bool:
    """Return whether TensorFlow is going to compute with a tensor on a GPU.

    A machine may have GPUs and compute on its CPU, under `tf.device`, for example.
    """
    import tensorflow as tf

    device = getattr(tensor, "device", "")
    if not tf.executing_eagerly():
        # Neither the inputs of a function nor constants say where their readers run,
        # but every operation is told the device of its scope.
        device = tf.no_op().device or device
    if device:
        return "GPU" in device.upper()
    return bool(tf.config.list_logical_devices("GPU"))


def _statistics_dtype(inputs: Array) -> str:
    # In float32 at least, whatever the dtype policy.
    return "float64" if inputs.dtype == "float64" else "float32"


def _both_weights(gamma, beta, layout) -> tuple[Array, Array]:
    import tensorflow as tf

    if gamma is None:
        gamma = tf.ones(layout.weight_shape)
    if beta is None:
        beta = tf.zeros(layout.weight_shape)
    return gamma, beta


def _stop_gradients(outputs: Array, moments: Moments) -> tuple[Array, Moments]:
    # The kernels ignore the cotangents of the moments; this makes all paths alike.
    count, mean, variance = moments
    return outputs, Moments(count, ops.stop_gradient(mean), ops.stop_gradient(variance))


def _serves(
    inputs: Array, axes: tuple[int, ...], on_gpu: bool, synchronized: bool = False
) -> bool:
    """Return whether the fused kernel is exact and the fastest for these inputs.

    Replicas whose shares of a batch have different sizes must make the same choice if
    they are synchronized, because the kernels exchange other values than the formula:
    the batch then counts as one of unknown size.
    """
    batch, *others = inputs.shape
    shape = [None if synchronized else batch, *others]
    return (
        inputs.dtype != "float64"  # the kernel does not take it
        and bool(axes)
        and (on_gpu or _repays_start_up(shape, axes))
        and not _has_long_sums(shape, axes)
        and not _is_compiled_by_xla()
        # With such channels the kernel takes longer than the formula on a CPU.
        and (
            on_gpu
            or not FusedLayout(
                inputs, axes, fold=True, across_examples=not synchronized
            ).has_slow_channels()
        )
    )


def _repays_start_up(shape, axes):
    """Return whether the batch is large enough for the fused kernel to be faster.

    If it is of unknown size, it must be reduced over positions, too; the batch then
    counts as `NOMINAL_BATCH` examples, and unknown positions count as many.
    """
    batch, *others = shape
    if None in others:
        return len(axes) > 1
    if batch is None:
        return len(axes) > 1 and NOMINAL_BATCH * prod(others) >= FEWEST_VALUES
    return batch * prod(others) >= FEWEST_VALUES


def _has_long_sums(shape, axes):
    """Return whether there are more values than the kernel sums exactly.

    Unknown sizes count as `NOMINAL_BATCH`.
    """
    sizes = [shape[axis] for axis in axes]
    values = prod(NOMINAL_BATCH if size is None else size for size in sizes)
    return values > MOST_VALUES_OF_A_SUM


def _is_compiled_by_xla():
    """Return whether XLA compiles what is being traced.

    XLA replaces the fused kernel by its own batch normalization, which computes the
    variance as `E[x^2] - E[x]^2`.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def _normalize_by_formula(
    inputs, gamma, beta, axes, epsilon, on_gpu
) -> tuple[Array, Moments]:
    import tensorflow as tf

    compiled = _is_compiled_by_xla() or on_gpu
    if gamma is None or beta is None:  # the gradients need both
        sizes: Any = ops.shape(inputs)
        shape = [1 if a in axes else size for a, size in enumerate(sizes)]
        gamma = tf.ones(shape, inputs.dtype) if gamma is None else gamma
        beta = tf.zeros(shape, inputs.dtype) if beta is None else beta

    def forward(x, gamma, beta):
        _, mean, variance = batch_moments(x, axes, pairwise=compiled)
        outputs = normalize(x, gamma, beta, mean, variance, epsilon)
        return outputs, mean, variance

    def backward(dy, x, gamma, mean, variance):
        moments = Moments(reduction_size(x, axes), mean, variance)
        return gradients(dy, x, gamma, moments, axes, epsilon)

    if on_gpu and not _is_compiled_by_xla():
        # On a GPU every operation reads its inputs from memory and writes its outputs
        # there: some thirteen passes, which XLA fuses to five.
        forward = tf.function(forward, jit_compile=True)
        backward = tf.function(backward, jit_compile=True)

    @tf.custom_gradient
    def kernel(x, gamma, beta) -> Any:
        outputs, mean, variance = forward(x, gamma, beta)

        # For a second derivative TensorFlow differentiates this function, including its
        # dependence on `mean` and `variance`. The cotangents of the moments are ignored
        # because `normalize_batch` stops their gradients.
        def gradient(dy, _mean_cotangent, _variance_cotangent):
            return backward(dy, x, gamma, mean, variance)

        return (outputs, mean, variance), gradient

    outputs, mean, variance = kernel(inputs, gamma, beta)
    return outputs, Moments(reduction_size(inputs, axes), mean, variance)
