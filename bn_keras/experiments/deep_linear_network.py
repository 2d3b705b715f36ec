"""A deep linear network with a normalization, its loss and gradients, in NumPy.

The network is so small that a framework would take most of the time of a step. All
arrays are `(units, examples)`, so that the values of a unit are next to each other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any
EPSILON = 1e-3  # the layer's default
# The exponent of each p-norm, and whether it is the norm after the mean is subtracted.
# The paper's is the norm before; the other is BN itself at p = 2.
NORMS = {
    "l1": (1, False),
    "l2": (2, False),
    "linf": (np.inf, False),
    "l1-centred": (1, True),
    "linf-centred": (np.inf, True),
}
NETWORKS = ("none", "bn", *NORMS)


def initial_weights(
    network: str, depth: int, units: int, generator: np.random.Generator
) -> list[Array]:
    """Return Glorot's uniform kernels, and gamma 1 and beta 0 after all but the last.

    Args:
        network: One of `NETWORKS`.
        depth: The number of square matrices.
        units: Their number of rows and columns.
        generator: The random generator of the kernels.

    Returns:
        The weights in the order of the network: kernel, gamma and beta of each layer.
        The last layer, and the network `"none"`, have kernels only.
    """
    limit = np.sqrt(6 / (units + units))
    weights: list[Array] = []
    for layer in range(depth):
        weights.append(generator.uniform(-limit, limit, (units, units)))
        if network != "none" and layer < depth - 1:
            weights += [np.ones((units, 1)), np.zeros((units, 1))]
    return weights


def group_by_layer(weights: Sequence[Array]) -> list[list[int]]:
    """Return the indices of each layer's weights, its kernel first.

    Args:
        weights: What `initial_weights` returned.
    """
    groups: list[list[int]] = []
    for index, weight in enumerate(weights):
        if weight.shape[1] > 1:
            groups.append([])
        groups[-1].append(index)
    return groups


class Examples(NamedTuple):
    """The examples that all steps use.

    Args:
        inputs: `(units, coordinates)`.
        targets: `(units, coordinates)`.
        ones: The vector of a one for each example, `(coordinates,)`.
        number: The number of examples.
    """

    inputs: Array
    targets: Array
    ones: Array
    number: int


def make_examples(network: str, inputs: Array, targets: Array) -> Examples:
    """Return the examples in as few coordinates as the network allows.

    Everything in the network is linear but the norms. Sums of squares over the examples
    are the same in any orthonormal basis, and all activations are combinations of the
    inputs and of the vector of ones. The coordinates in an orthonormal basis of these
    therefore give the same losses and gradients as the examples themselves, except for
    p-norms other than 2, which need the examples.

    Args:
        network: One of `NETWORKS`.
        inputs: `(units, examples)`.
        targets: Linear combinations of the inputs, `(units, examples)`.
    """
    count = inputs.shape[1]
    ones = np.ones(count)
    if network in NORMS and NORMS[network][0] != 2:
        return Examples(inputs, targets, ones, count)
    basis, _ = np.linalg.qr(np.vstack([ones, inputs]).T)
    return Examples(inputs @ basis, targets @ basis, ones @ basis, count)


def loss_and_gradients(
    network: str, weights: Sequence[Array], examples: Examples
) -> tuple[float, list[Array]]:
    """Return the sum of squares over outputs and examples, and its gradients.

    Args:
        network: One of `NETWORKS`.
        weights: As `initial_weights` returns them.
        examples: What `make_examples` returned for this network.

    Returns:
        The loss, and one gradient for each weight.

    Reference:
        Santurkar et al. 2018, appendix A.1.
    """
    layers = group_by_layer(weights)
    x, tape = examples.inputs, []
    for indices in layers:
        kernel, *affine = (weights[index] for index in indices)
        before, x = x, kernel @ x
        backward = None
        if affine:
            x, backward = _normalize(network, x, affine[0], affine[1], examples)
        tape.append((before, kernel, backward))
    residual = x - examples.targets
    gradients: list[Array] = []
    gradient = 2 * residual
    for before, kernel, backward in reversed(tape):
        affine = []
        if backward is not None:
            gradient, affine = backward(gradient)
        gradients = [gradient @ before.T, *affine, *gradients]
        gradient = kernel.T @ gradient
    return float(np.vdot(residual, residual)), gradients


def _normalize(
    network, x, gamma, beta, examples
) -> tuple[Array, Callable[[Array], Any]]:
    """Normalize each unit over the examples; return the outputs and their gradient."""
    ones, count = examples.ones, examples.number
    centred = x - np.outer(x @ ones / count, ones)
    if network == "bn":
        norm, slope = _root_mean_square(centred, count)
    else:
        p, after_mean = NORMS[network]
        values = centred if after_mean else x
        if p == 2:
            norm, slope = _root_mean_square(values, count)
        else:
            norm, slope = _p_norm(p, values)
        if after_mean:
            slope = slope - np.outer(slope @ ones / count, ones)
    normalized = centred / norm

    def backward(gradient):
        to_gamma = np.vecdot(gradient, normalized)[:, np.newaxis]
        to_beta = (gradient @ ones)[:, np.newaxis]
        # The quotient rule, with the mean over the examples subtracted.
        to_x = gradient - to_beta * (ones / count) - to_gamma * slope
        return (gamma / norm) * to_x, [to_gamma, to_beta]

    return gamma * normalized + beta * ones, backward


def _root_mean_square(values, count):
    """Return the 2-norm of each unit, and its derivative by each value."""
    square = np.vecdot(values, values)[:, np.newaxis] / count
    norm = np.sqrt(square + EPSILON)
    return norm, values / (norm * count)


def _p_norm(p, values):
    """Return the 1-norm or the largest size of each unit, and its derivatives."""
    sizes, signs = np.abs(values), np.sign(values)
    if p == 1:
        return sizes.mean(axis=1, keepdims=True) + EPSILON, signs / values.shape[1]
    largest = sizes.max(axis=1, keepdims=True)
    at_largest = sizes == largest
    slope = at_largest * signs / at_largest.sum(axis=1, keepdims=True)
    return largest + EPSILON, slope
