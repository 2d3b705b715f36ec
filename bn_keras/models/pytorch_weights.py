"""BN-Inception from PyTorch: `pretrainedmodels`' and TSN's `bninception`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.inception import BNInception
from bn_keras.models.tf_slim_checkpoint import layer_scopes

# PyTorch's own.
EPSILON = 1e-5
# The names of the layers that are not called as here.
_NAMES = {"conv1": "conv1_7x7_s2", "conv2_reduce": "conv2_3x3_reduce"}
_NAMES["conv2"] = "conv2_3x3"
_SUFFIXES = {
    "double_3x3_a": "double_3x3_1",
    "double_3x3_b": "double_3x3_2",
    "pool_projection": "pool_proj",
}
# `pretrainedmodels` and TSN call the classifier differently.
_CLASSIFIERS = ("last_linear", "fc", "fc_action")
_SHOWN = 5


def bn_inception_from_pytorch(
    state_dict: Mapping[str, Any], **arguments: Any
) -> keras.Model:
    """Build BN-Inception with the weights of PyTorch's `bninception`.

    That network was converted from Caffe: its first convolution is not separable, and
    zeros are padded as in Caffe. The model takes images in RGB from 0 to 255, of which
    the mean color `(128, 117, 104)` was subtracted. (The network there takes BGR; its
    first kernel is reversed here.)

    Args:
        state_dict: What `torch.load` or `model.state_dict()` returns: a mapping from
            names to tensors or arrays. A prefix that all names share, such as
            `"module.base_model."`, is ignored.
        **arguments: Arguments of `BNInception`, such as `input_shape`, `include_top`
            and `pooling`. With `include_top=True` the mapping must have a classifier.

    Returns:
        A Keras model.

    Raises:
        ValueError: If weights are missing or of another shape. The text names them.

    Example:
    ```python
    import numpy as np
    from bn_keras.models import bn_inception_from_pytorch

    # With PyTorch: state = torch.load("bn_inception-52deb4733.pth")
    state = {"conv1_7x7_s2.weight": np.zeros((64, 3, 7, 7))}
    try:
        bn_inception_from_pytorch(state)
    except ValueError as error:
        assert "conv1_7x7_s2.bias is missing" in str(error)
    ```
    """
    state = _without_prefix(state_dict)
    heads = [name for name in _CLASSIFIERS if f"{name}.weight" in state]
    classifier = heads[0] if heads else None
    if classifier is not None:
        arguments.setdefault("classes", len(state[f"{classifier}.weight"]))
    model = BNInception(
        normalization=partial(BatchNormalization, epsilon=EPSILON),
        separable=False,
        variant="caffe",
        **arguments,
    )
    wanted = _shapes(model, classifier or _CLASSIFIERS[0])
    problems = [
        f"{name} is missing"
        if name not in state
        else f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name not in state or tuple(state[name].shape) != shape
    ]
    if problems:
        others = len(problems) - _SHOWN
        raise ValueError(
            "`state_dict` must be that of PyTorch's bninception. Received: "
            f"{'; '.join(problems[:_SHOWN])}"
            f"{f'; and {others} others' if others > 0 else ''}. Give another one, or "
            "build the network with its default layers."
        )
    values = {name: np.asarray(state[name], np.float32) for name in wanted}
    for place in layer_scopes():
        name = _pytorch_name(place)
        kernel = values[f"{name}.weight"].transpose(2, 3, 1, 0)
        if place == "conv1":
            kernel = kernel[:, :, ::-1]  # BGR there
        model.get_layer(f"{place}_conv").kernel.assign(kernel)
        layer: Any = model.get_layer(f"{place}_bn")
        layer.gamma.assign(values[f"{name}_bn.weight"])
        layer.beta.assign(values[f"{name}_bn.bias"])
        # The convolutions there have a bias, which shifts what is normalized.
        mean = values[f"{name}_bn.running_mean"] - values[f"{name}.bias"]
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(values[f"{name}_bn.running_var"])
    if f"{classifier}.weight" in values:
        layer = model.get_layer("predictions")
        layer.kernel.assign(values[f"{classifier}.weight"].T)
        layer.bias.assign(values[f"{classifier}.bias"])
    return model


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    first = "conv1_7x7_s2.weight"
    prefixes = [name.removesuffix(first) for name in state_dict if name.endswith(first)]
    prefix = prefixes[0] if prefixes else ""
    # TSN replaces the classifier and does not give it the prefix of the others.
    short = {name.rpartition("module.")[2]: name for name in state_dict}
    return {name: state_dict[full] for name, full in short.items()} | {
        name.removeprefix(prefix): value for name, value in state_dict.items()
    }


def _pytorch_name(place: str) -> str:
    """Return the name there of a convolution that has this place here."""
    for here, there in _SUFFIXES.items():
        if place.endswith(here):
            return place.removesuffix(here) + there
    return _NAMES.get(place, place)


def _shapes(model: keras.Model, classifier: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight there."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place in layer_scopes():
        height, width, inputs, outputs = model.get_layer(f"{place}_conv").kernel.shape
        name = _pytorch_name(place)
        shapes[f"{name}.weight"] = (outputs, inputs, height, width)
        shapes[f"{name}.bias"] = (outputs,)
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}_bn.{statistic}"] = (outputs,)
    last: Any = model.layers[-1]
    if last.name == "predictions":
        features, classes = last.kernel.shape
        shapes[f"{classifier}.weight"] = (classes, features)
        shapes[f"{classifier}.bias"] = (classes,)
    return shapes
