"""What the networks share with `keras.applications`: arguments, top and weights."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from bn_keras.models.hidden_layer import Activation
from bn_keras.models.tf_slim_checkpoint import (
    download,
    is_checkpoint,
    load_checkpoint,
)

# The name of the published weights.
IMAGENET = "imagenet"

_GLOBAL_POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


def check_arguments(
    weights: str | PathLike[str] | None,
    pooling: str | None,
    width: float,
    pretrained: bool = False,
) -> None:
    """Raise an error for values with which no network can be built.

    Args:
        weights: None, `"imagenet"`, or the path of a file.
        pooling: None, `"avg"` or `"max"`.
        width: The factor of the number of channels.
        pretrained: Whether there are weights that were trained on ImageNet.

    Raises:
        ValueError: If `weights` is not a file, `pooling` is unknown or `width` is not
            positive.
    """
    exists = weights is None or Path(weights).is_file()
    named = ""
    if pretrained:
        exists = exists or weights == IMAGENET or is_checkpoint(Path(weights or ""))
        named = f'"{IMAGENET}", a checkpoint of TF-Slim\'s inception_v2, '
    if not exists:
        raise ValueError(
            f"`weights` must be None, {named}or the path of an existing `.weights.h5` "
            f"or `.keras` file. Received: weights={weights!r}"
        )
    check_choice("pooling", pooling, [None, *_GLOBAL_POOLING])
    if width <= 0:
        raise ValueError(
            "`width`, the factor of the number of channels, must be positive. "
            f"Received: width={width}"
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise an error unless the value of an argument is one of several choices.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        choices: The values that are possible.

    Raises:
        ValueError: If `value` is not one of `choices`.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )


def channel_axis() -> int:
    """Return the axis of the channels in a batch of images."""
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def image_sides(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Return the height and width in the shape of one image, None where unknown."""
    return tuple(shape[1:] if channel_axis() == 1 else shape[:-1])


def image_shape(
    input_shape: Sequence[int | None] | None, shortest_side: int, reason: str
) -> tuple[int | None, ...]:
    """Return the shape of one image after checking it.

    Args:
        input_shape: `(height, width, channels)`, or `(channels, height, width)` if
            `keras.config.image_data_format()` is `"channels_first"`. Height and width
            may be None. The default None stands for 224 x 224 pixels and 3 channels.
        shortest_side: The smallest height and width in pixels.
        reason: What requires `shortest_side`, for the error message.

    Raises:
        ValueError: If the rank is not 3, the number of channels is unknown or a side
            is too short.
    """
    axis = channel_axis()
    if input_shape is None:
        return (3, 224, 224) if axis == 1 else (224, 224, 3)
    shape = tuple(input_shape)
    if (
        len(shape) != 3
        or shape[0 if axis == 1 else 2] is None
        or any(side is not None and side < shortest_side for side in image_sides(shape))
    ):
        raise ValueError(
            "`input_shape` must have rank 3, known channels "
            f"({keras.config.image_data_format()}) and sides of at least "
            f"{shortest_side} pixels {reason}. Received: input_shape={input_shape}"
        )
    return shape


def scale_channels(width: float, channels: int) -> int:
    """Return `width` times the number of channels, rounded, but at least 1."""
    return max(1, round(width * channels))


def pool_globally(x: keras.KerasTensor, pooling: str | None) -> keras.KerasTensor:
    """Apply the layer `avg_pool` or `max_pool`, or nothing if `pooling` is None."""
    return x if pooling is None else _GLOBAL_POOLING[pooling](name=f"{pooling}_pool")(x)


def classify(
    x: keras.KerasTensor, classes: int, activation: Activation, **kwargs: Any
) -> keras.KerasTensor:
    """Apply the dense layer `predictions`, in the dtype of the weights.

    Under a mixed-precision policy that dtype is float32: a softmax over many classes
    loses precision in 16 bits.

    Args:
        x: The features, `(batch, features)`.
        classes: Number of outputs.
        activation: Activation of the output; None for logits.
        **kwargs: Other arguments of `keras.layers.Dense`.

    Returns:
        The outputs, `(batch, classes)`.
    """
    return keras.layers.Dense(
        classes,
        activation=activation,
        name="predictions",
        dtype=keras.config.dtype_policy().variable_dtype,
        **kwargs,
    )(x)


def build_model(
    inputs: keras.KerasTensor,
    outputs: keras.KerasTensor,
    weights: str | PathLike[str] | None,
    name: str,
) -> keras.Model:
    """Return the model, with the weights of a file unless `weights` is None."""
    model = keras.Model(inputs, outputs, name=name)
    if weights == IMAGENET:
        load_checkpoint(model, download())
    elif weights is not None and is_checkpoint(weights):
        load_checkpoint(model, weights)
    elif weights is not None:
        model.load_weights(str(weights))
    return model
