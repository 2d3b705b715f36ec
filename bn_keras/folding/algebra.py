"""Arithmetic of folding an affine map into linear weights, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class Affine:
    """The map `y = scale * x + shift` along some axes of a tensor.

    Args:
        scale: A float64 array with one dimension for each of `axes`.
        shift: A float64 array of the same shape as `scale`.
        axes: Axes of the tensor in ascending order; axis 0 is the batch.
    """

    scale: np.ndarray
    shift: np.ndarray
    axes: tuple[int, ...]

    def after(self, first: "Affine") -> "Affine":
        """Return the composition `self(first(x))`, along the axes of both maps."""
        axes = tuple(sorted({*self.axes, *first.axes}))
        scale, shift = (align(a, self.axes, axes) for a in (self.scale, self.shift))
        inner_scale, inner_shift = (
            align(a, first.axes, axes) for a in (first.scale, first.shift)
        )
        return Affine(scale * inner_scale, scale * inner_shift + shift, axes)

    def with_axes(self, axes: Sequence[int]) -> "Affine":
        """Return the same map along other axes, given in the order of `self.axes`."""
        # The new axes may be in another order, so the arrays are transposed with them.
        order = sorted(range(len(axes)), key=lambda position: axes[position])
        return Affine(
            self.scale.transpose(order),
            self.shift.transpose(order),
            tuple(sorted(axes)),
        )

    def select(self, axis: int, start: int, stop: int) -> "Affine":
        """Return the map for the positions from `start` to `stop` of one axis."""
        if axis not in self.axes:
            return self
        index = [slice(None)] * len(self.axes)
        index[self.axes.index(axis)] = slice(start, stop)
        return Affine(self.scale[tuple(index)], self.shift[tuple(index)], self.axes)

    def tile(self, sizes: Sequence[int]) -> "Affine":
        """Return the map repeated for every position of a tensor.

        Args:
            sizes: Shape of the tensor without its batch axis.
        """
        axes = tuple(range(1, len(sizes) + 1))
        scale, shift = (
            np.broadcast_to(align(array, self.axes, axes), sizes)
            for array in (self.scale, self.shift)
        )
        return Affine(scale, shift, axes)

    def without_constant_axes(self) -> "Affine":
        """Return the same map along as few axes as possible, but at least one."""
        scale, shift, axes = self.scale, self.shift, self.axes
        for axis in self.axes:
            position = axes.index(axis)
            if len(axes) > 1 and all(
                (array == array.take([0], position)).all() for array in (scale, shift)
            ):
                scale, shift = scale.take(0, position), shift.take(0, position)
                axes = axes[:position] + axes[position + 1 :]
        return Affine(scale, shift, axes)


def affine_from_statistics(
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    mean: ArrayLike,
    variance: ArrayLike,
    epsilon: float,
    axes: Sequence[int],
) -> Affine:
    """Return the affine map that batch normalization computes at inference.

    `scale = gamma / sqrt(variance + epsilon)`, `shift = beta - mean * scale`.

    Args:
        gamma: The learned scale, or None for 1.
        beta: The learned offset, or None for 0.
        mean: The population mean.
        variance: The population variance.
        epsilon: The constant that the layer adds to the variance.
        axes: Axes along which the statistics vary, in ascending order.

    Returns:
        An `Affine` in float64.

    Example:
    ```python
    from bn_keras.folding.algebra import affine_from_statistics

    affine = affine_from_statistics(None, None, [3.0], [4.0], 0.0, (1,))
    assert affine.scale == 0.5
    assert affine.shift == -1.5
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, step 11.
    """
    mean, variance = (np.asarray(array, "float64") for array in (mean, variance))
    # A negative or missing variance gives NaN. The report names that as "not finite";
    # a NumPy warning would not say which layer it comes from.
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(variance + epsilon)
        if gamma is not None:
            scale = np.asarray(gamma, "float64") * scale
        shift = -mean * scale
    if beta is not None:
        shift = np.asarray(beta, "float64") + shift
    return Affine(scale, shift, tuple(axes))


def align(
    array: np.ndarray, labels: Sequence[object], target_labels: Sequence[object]
) -> np.ndarray:
    """Transpose and reshape an array until it broadcasts against other axes.

    Args:
        array: The array.
        labels: A label for each dimension of `array`.
        target_labels: The labels of the axes to broadcast against, `labels` included.

    Returns:
        A view of `array` with a dimension for each of `target_labels`, of size 1 where
        the label is not in `labels`.
    """
    labels, target_labels = list(labels), list(target_labels)
    array = array.transpose([labels.index(x) for x in target_labels if x in labels])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if x in labels else 1 for x in target_labels])


def fold_after_linear(
    kernel: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    axis: int = -1,
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of `scale * (kernel(x) + bias) + shift`.

    Args:
        kernel: The weights.
        bias: Shape `(outputs,)`, or None for 0.
        scale: Shape `(outputs,)`.
        shift: Shape `(outputs,)`.
        axis: Axis of the outputs in `kernel`: -1 for dense layers and convolutions, -2
            for transposed convolutions.
    """
    kernel = np.moveaxis(np.moveaxis(kernel, axis, -1) * scale, -1, axis)
    return kernel, _zero_if_none(bias) * scale + shift


def fold_after_depthwise(
    kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `fold_after_linear` of a kernel `(..., channels, multiplier)`."""
    # Output `c * multiplier + m` of the layer is entry `(c, m)` of its kernel.
    kernel = kernel * scale.reshape(kernel.shape[-2:])
    return kernel, _zero_if_none(bias) * scale + shift


def fold_before_dense(
    kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of `kernel(scale * x + shift) + bias`.

    Args:
        kernel: Shape `(inputs, outputs)`.
        bias: Shape `(outputs,)`, or None for 0.
        scale: Shape `(inputs,)`.
        shift: Shape `(inputs,)`.
    """
    return kernel * scale[:, None], _zero_if_none(bias) + shift @ kernel


def fold_before_convolution(
    kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `fold_before_dense` for a convolution without padding.

    The kernel has the shape `(..., inputs / groups, outputs)`. Input `i` of group `g`
    is channel `g * (inputs / groups) + i`.
    """
    inputs_per_group, outputs = kernel.shape[-2:]
    groups = scale.size // inputs_per_group
    # The scale and shift that each output sees, `(inputs / groups, outputs)`.
    scale_by_output, shift_by_output = (
        np.repeat(array.reshape(groups, inputs_per_group), outputs // groups, axis=0).T
        for array in (scale, shift)
    )
    all_but_outputs = tuple(range(kernel.ndim - 1))
    # Without padding every output position sums the shift over the whole kernel.
    shifted_bias = (kernel * shift_by_output).sum(all_but_outputs)
    return kernel * scale_by_output, _zero_if_none(bias) + shifted_bias


def fold_before_depthwise(
    kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `fold_before_dense` for a depthwise kernel without padding.

    The kernel has the shape `(..., channels, multiplier)`.
    """
    spatial_axes = tuple(range(kernel.ndim - 2))
    shifted_bias = (kernel * shift[:, None]).sum(spatial_axes).reshape(-1)
    return kernel * scale[:, None], _zero_if_none(bias) + shifted_bias


def fold_before_separable(
    depthwise: np.ndarray,
    pointwise: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return depthwise kernel and bias of an unpadded separable convolution."""
    depthwise, shifted_bias = fold_before_depthwise(depthwise, None, scale, shift)
    # The shift reaches the bias, which is added last, through the pointwise kernel.
    kernel = pointwise.reshape(pointwise.shape[-2:])
    return depthwise, _zero_if_none(bias) + shifted_bias @ kernel


def fold_before_transposed(
    kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel `(..., outputs, inputs)` and bias after a map without a shift."""
    outputs = kernel.shape[-2]
    return kernel * scale, np.zeros(outputs) if bias is None else bias


EinsumLabels = tuple[list[str], list[str], list[str]]


def einsum_labels(equation: str, rank: int) -> EinsumLabels:
    """Return the labels of the axes of an `EinsumDense` layer.

    Args:
        equation: An equation such as `"...x,xy->...y"`.
        rank: Rank of the layer's input, including the batch.

    Returns:
        The labels of the input, of the kernel and of the output. The axes that an
        ellipsis stands for are labelled `"#0"`, `"#1"`, ...
    """
    operands, output_term = equation.replace(" ", "").split("->")
    input_term, kernel_term = operands.split(",")
    elided = [f"#{i}" for i in range(rank - len(input_term.replace("...", "")))]

    def labels(term: str) -> list[str]:
        head, dots, tail = term.partition("...")
        return [*head, *(elided if dots else ()), *tail]

    return labels(input_term), labels(kernel_term), labels(output_term)


def fold_after_einsum(
    labels: EinsumLabels, kernel: np.ndarray, bias: np.ndarray | None, affine: Affine
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `fold_after_linear` for an `EinsumDense` layer.

    Args:
        labels: The result of `einsum_labels`.
        kernel: The weights.
        bias: An array of the output's rank, of size 1 on the axes without a bias, or
            None for 0.
        affine: The map, along axes of the output.

    Returns:
        The kernel, and a bias of the output's rank.

    Raises:
        ValueError: If the kernel does not have an axis of the map.
    """
    _, kernel_labels, output_labels = labels
    affine_labels = [output_labels[axis] for axis in affine.axes]
    _require_kernel_axes(affine_labels, kernel_labels)
    scale, shift = affine.scale, affine.shift
    folded_bias = align(shift, affine_labels, output_labels)
    if bias is not None:
        folded_bias = bias * align(scale, affine_labels, output_labels) + folded_bias
    return kernel * align(scale, affine_labels, kernel_labels), folded_bias


def fold_before_einsum(
    labels: EinsumLabels, kernel: np.ndarray, bias: np.ndarray | None, affine: Affine
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `fold_after_einsum` for a map before the layer.

    The axes of the map are those of the input.
    """
    input_labels, kernel_labels, output_labels = labels
    affine_labels = [input_labels[axis] for axis in affine.axes]
    # An input axis that is summed over without the kernel would multiply the shift by
    # the size of that axis.
    summed = [x for x in input_labels if x not in output_labels]
    _require_kernel_axes(affine_labels + summed, kernel_labels)
    shifted = kernel * align(affine.shift, affine_labels, kernel_labels)
    folded_bias = shifted.sum(
        tuple(i for i, x in enumerate(kernel_labels) if x not in output_labels)
    )
    kept = [x for x in kernel_labels if x in output_labels]
    folded_bias = align(folded_bias, kept, output_labels)
    if bias is not None:
        folded_bias = bias + folded_bias
    return kernel * align(affine.scale, affine_labels, kernel_labels), folded_bias


def _require_kernel_axes(labels: list[str], kernel_labels: list[str]) -> None:
    missing = [label for label in labels if label not in kernel_labels]
    if missing or len(set(kernel_labels)) < len(kernel_labels):
        raise ValueError(
            "The kernel of the equation must have every axis to fold along exactly "
            f"once. Received: kernel axes {''.join(kernel_labels)!r}, axes to fold "
            f"along {''.join(labels)!r}"
        )


def _zero_if_none(bias: np.ndarray | None) -> np.ndarray | float:
    return 0.0 if bias is None else bias
