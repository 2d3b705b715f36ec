"""A network of Keras in PyTorch, layer by layer, with weights of PyTorch's own."""

# PyTorch is not installed where types are checked.
# pyright: reportMissingImports=false

from typing import Any

import torch
from torch import nn


def network_of(model: Any) -> nn.Module:
    """Return a functional model of convolutions, BN and pooling as a PyTorch module.

    Its operations and sizes are the same; averages at the border, which PyTorch takes
    over zeros as well, are not. Its inputs are `(batch, channels, height, width)`; a
    final softmax is left out.

    Raises:
        ValueError: If the model has a layer of another kind.
    """
    return _Network(model)


class _Network(nn.Module):
    """Runs the layers in the order of the Keras graph."""

    def __init__(self, model):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.plan = []  # (name, names of its inputs)
        for layer in model.layers[1:]:
            (node,) = layer._inbound_nodes
            inputs = [
                tensor._keras_history.operation.name for tensor in node.input_tensors
            ]
            self.layers[layer.name] = _module_of(layer)
            self.plan.append((layer.name, inputs))
        self.first = model.layers[0].name

    def forward(self, x):
        values = {self.first: x}
        for name, inputs in self.plan:
            values[name] = self.layers[name](*[values[key] for key in inputs])
        return values[self.plan[-1][0]]


class _Concatenate(nn.Module):
    def forward(self, *tensors):
        return torch.cat(tensors, 1)


class _GlobalAverage(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def _padded(module, layer, kernel):
    """Return a module behind the zeros of Keras' `"same"` for even sizes."""
    pads = []
    for size, stride in zip(reversed(kernel), reversed(layer.strides), strict=True):
        total = max(size - stride, 0)
        pads += [total // 2, total - total // 2]
    return nn.Sequential(nn.ZeroPad2d(tuple(pads)), module)


def _convolution(layer, groups, kernel, channels, filters, bias):
    module = nn.Conv2d(
        channels, filters, kernel, layer.strides, groups=groups, bias=bias
    )
    return module if max(kernel) == 1 else _padded(module, layer, kernel)


def _module_of(layer):
    kind = type(layer).__name__
    shape = layer.input.shape if not isinstance(layer.input, list) else None
    if kind == "Conv2D":
        bias, kernel = layer.use_bias, layer.kernel_size
        return _convolution(layer, 1, kernel, shape[-1], layer.filters, bias)
    if kind == "SeparableConv2D":
        middle = shape[-1] * layer.depth_multiplier
        depthwise = _convolution(
            layer, shape[-1], layer.kernel_size, shape[-1], middle, False
        )
        pointwise = nn.Conv2d(middle, layer.filters, 1, bias=layer.use_bias)
        return nn.Sequential(depthwise, pointwise)
    if kind == "BatchNormalization":
        return nn.BatchNorm2d(shape[-1], layer.epsilon, 1 - layer.momentum)
    if kind == "Activation":
        return nn.ReLU()
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        pool = nn.MaxPool2d if kind == "MaxPooling2D" else nn.AvgPool2d
        # Inputs of a pooling layer follow ReLU: zeros do not change a maximum.
        return _padded(pool(layer.pool_size, layer.strides), layer, layer.pool_size)
    if kind == "Concatenate":
        return _Concatenate()
    if kind == "GlobalAveragePooling2D":
        return _GlobalAverage()
    if kind == "Dense":
        return nn.Linear(shape[-1], layer.units)
    raise ValueError(
        f"The model must consist of convolutions, BN and pooling. Received: {layer!r}. "
        "Leave PyTorch out."
    )
