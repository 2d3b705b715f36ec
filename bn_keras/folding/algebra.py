"""The arithmetic of folding an affine map into linear weights, in float64.

Arrays in, arrays out: knows neither Keras, nor layers, nor graphs.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Affine:
    """The map `y = scale * x + shift` along some axes of a tensor.

    Args:
        scale: float64, one dimension for each of `axes`.
        shift: float64, of the shape of `scale`.
        axes: axes of the tensor, the batch being axis 0, ascending.
    """

    scale: np.ndarray
    shift: np.ndarray
    axes: tuple[int, ...]

    def after(self, first):
        """The composition `self(first(x))`, on the axes of both."""
        axes = tuple(sorted({*self.axes, *first.axes}))
        scale, shift = (spread(a, self.axes, axes) for a in (self.scale, self.shift))
        inner, offset = (
            spread(a, first.axes, axes) for a in (first.scale, first.shift)
        )
        return Affine(scale * inner, scale * offset + shift, axes)

    def on(self, axes):
        """The same map with its axes renamed; the order of `axes` may change."""
        order = sorted(range(len(axes)), key=lambda position: axes[position])
        return Affine(
            self.scale.transpose(order),
            self.shift.transpose(order),
            tuple(sorted(axes)),
        )

    def part(self, axis, start, stop):
        """The map for the positions `start` to `stop` of one axis."""
        if axis not in self.axes:
            return self
        index = [slice(None)] * len(self.axes)
        index[self.axes.index(axis)] = slice(start, stop)
        return Affine(self.scale[tuple(index)], self.shift[tuple(index)], self.axes)

    def tiled(self, sizes):
        """The map spelled out for every position of a tensor without its batch axis."""
        axes = tuple(range(1, len(sizes) + 1))
        scale, shift = (
            np.broadcast_to(spread(array, self.axes, axes), sizes)
            for array in (self.scale, self.shift)
        )
        return Affine(scale, shift, axes)

    def without_constant_axes(self):
        """The same map on the fewest axes, at least one."""
        scale, shift, axes = self.scale, self.shift, self.axes
        for axis in self.axes:
            position = axes.index(axis)
            if len(axes) > 1 and all(
                (array == array.take([0], position)).all() for array in (scale, shift)
            ):
                scale, shift = scale.take(0, position), shift.take(0, position)
                axes = axes[:position] + axes[position + 1 :]
        return Affine(scale, shift, axes)


def affine_of_statistics(gamma, beta, mean, variance, epsilon, axes):
    """The affine map that batch normalization is at inference.

    `scale = gamma / sqrt(variance + epsilon)`, `shift = beta - mean * scale`.

    Args:
        gamma: array, or None for 1.
        beta: array, or None for 0.
        mean, variance: population statistics.
        epsilon: the layer's own constant.
        axes: the axes that have statistics of their own, ascending.

    Returns:
        An `Affine` in float64.

    Example:
    ```python
    from bn_keras.folding.algebra import affine_of_statistics

    affine = affine_of_statistics(None, None, [3.0], [4.0], 0.0, (1,))
    assert affine.scale == 0.5
    assert affine.shift == -1.5
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, step 11.
    """
    mean, variance = (np.asarray(array, "float64") for array in (mean, variance))
    # A broken variance must reach the report as "not finite", not as a warning.
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(variance + epsilon)
        if gamma is not None:
            scale = np.asarray(gamma, "float64") * scale
        shift = -mean * scale
    if beta is not None:
        shift = np.asarray(beta, "float64") + shift
    return Affine(scale, shift, tuple(axes))


def spread(array, labels, target):
    """`array`, whose dimensions are `labels`, made broadcastable to `target`."""
    labels, target = list(labels), list(target)
    array = array.transpose([labels.index(one) for one in target if one in labels])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if one in labels else 1 for one in target])


def fold_after(kernel, bias, scale, shift, axis=-1):
    """Kernel and bias of `scale * (kernel(x) + bias) + shift`.

    Args:
        kernel: weights whose `axis` counts the outputs.
        bias: `(outputs,)`, or None for 0.
        scale, shift: `(outputs,)`.
        axis: -1 for dense and convolution kernels, -2 for transposed convolutions.
    """
    kernel = np.moveaxis(np.moveaxis(kernel, axis, -1) * scale, -1, axis)
    return kernel, _or_zero(bias) * scale + shift


def fold_after_depthwise(kernel, bias, scale, shift):
    """As `fold_after`, for a kernel `(..., channels, multiplier)`."""
    kernel = kernel * scale.reshape(kernel.shape[-2:])
    return kernel, _or_zero(bias) * scale + shift


def fold_before_dense(kernel, bias, scale, shift):
    """Kernel and bias of `kernel(scale * x + shift) + bias`, kernel `(in, out)`."""
    return kernel * scale[:, None], _or_zero(bias) + shift @ kernel


def fold_before_convolution(kernel, bias, scale, shift):
    """As `fold_before_dense`, for an unpadded kernel `(..., in / groups, out)`.

    Input `i` of group `g` is channel `g * (in / groups) + i`.
    """
    inputs, outputs = kernel.shape[-2:]
    groups = scale.size // inputs
    by_output = [
        np.repeat(array.reshape(groups, inputs), outputs // groups, axis=0).T
        for array in (scale, shift)
    ]
    taps = tuple(range(kernel.ndim - 1))
    return kernel * by_output[0], _or_zero(bias) + (kernel * by_output[1]).sum(taps)


def fold_before_depthwise(kernel, bias, scale, shift):
    """As `fold_before_dense`, for an unpadded kernel `(..., channels, multiplier)`."""
    taps = tuple(range(kernel.ndim - 2))
    moved = (kernel * shift[:, None]).sum(taps).reshape(-1)
    return kernel * scale[:, None], _or_zero(bias) + moved


def fold_before_separable(depthwise, pointwise, bias, scale, shift):
    """Depthwise kernel and bias of an unpadded separable convolution after the map."""
    depthwise, moved = fold_before_depthwise(depthwise, None, scale, shift)
    kernel = pointwise.reshape(pointwise.shape[-2:])
    return depthwise, _or_zero(bias) + moved @ kernel


def fold_before_transposed(kernel, bias, scale):
    """Kernel `(..., out, in)` and bias after a map without shift."""
    outputs = kernel.shape[-2]
    return kernel * scale, np.zeros(outputs) if bias is None else bias


def einsum_labels(equation, rank):
    """The labels of each axis of input, kernel and output of an `EinsumDense`.

    Args:
        equation: such as `"...x,xy->...y"`.
        rank: of the input, the batch included.

    Returns:
        Three lists of labels; axes under the ellipsis are numbered `"#0"`, `"#1"`, ...
    """
    left, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    elided = [f"#{i}" for i in range(rank - len(inputs.replace("...", "")))]

    def labels(term):
        head, dots, tail = term.partition("...")
        return [*head, *(elided if dots else ()), *tail]

    return labels(inputs), labels(kernel), labels(outputs)


def fold_after_einsum(labels, kernel, bias, affine):
    """As `fold_after`, for an `EinsumDense` of the given labels.

    Args:
        labels: from `einsum_labels`.
        kernel: weights.
        bias: of the output's rank, size 1 on the axes without bias; or None.
        affine: on the output's axes.

    Returns:
        The kernel, and a bias of the output's rank.

    Raises:
        ValueError: for an axis that the kernel does not have.
    """
    _, weights, outputs = labels
    names = [outputs[axis] for axis in affine.axes]
    _require(names, weights)
    scale, shift = affine.scale, affine.shift
    moved = spread(shift, names, outputs)
    if bias is not None:
        moved = bias * spread(scale, names, outputs) + moved
    return kernel * spread(scale, names, weights), moved


def fold_before_einsum(labels, kernel, bias, affine):
    """As `fold_after_einsum`, for a map before the layer, on the input's axes."""
    inputs, weights, outputs = labels
    names = [inputs[axis] for axis in affine.axes]
    # Axes summed over without the kernel would multiply the shift by their size.
    _require(names + [one for one in inputs if one not in outputs], weights)
    moved = kernel * spread(affine.shift, names, weights)
    moved = moved.sum(tuple(i for i, one in enumerate(weights) if one not in outputs))
    kept = [one for one in weights if one in outputs]
    moved = spread(moved, kept, outputs)
    if bias is not None:
        moved = bias + moved
    return kernel * spread(affine.scale, names, weights), moved


def _require(names, weights):
    missing = [name for name in names if name not in weights]
    if missing or len(set(weights)) < len(weights):
        raise ValueError(
            "The equation's kernel must have every axis to fold on, once. Received: "
            f"kernel axes {''.join(weights)!r}, to fold on {''.join(names)!r}"
        )


def _or_zero(bias):
    return 0.0 if bias is None else bias
