"""What the networks share of `keras.applications`' conventions: checks, top, weights.

Knows no network.
"""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import keras

_GLOBAL_POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


def check_arguments(
    weights: str | PathLike[str] | None, pooling: str | None, width: float
) -> None:
    """Refuse the values that no network can be built with.

    Args:
        weights: None, or the path of a file.
        pooling: None, `"avg"` or `"max"`.
        width: multiplies the channels.

    Raises:
        ValueError: if `weights` is no file, `pooling` unknown or `width` not positive.
    """
    if weights is not None and not Path(weights).is_file():
        raise ValueError(
            "`weights` must be None or the path of an existing `.weights.h5` or "
            f"`.keras` file. Received: weights={weights!r}"
        )
    check_choice("pooling", pooling, [None, *_GLOBAL_POOLING])
    if width <= 0:
        raise ValueError(
            "`width` must be positive; it multiplies the channels. "
            f"Received: width={width}"
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is none of the choices.

    Args:
        name: of the argument.
        value: of the argument.
        choices: the values it may have.

    Raises:
        ValueError: if `value` is not among `choices`.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )


def channel_axis() -> int:
    """Return the axis of the channels of a batch of images."""
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def image_sides(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Return height and width of an image's shape, None where unknown."""
    return tuple(shape[1:] if channel_axis() == 1 else shape[:-1])


def image_shape(
    input_shape: Sequence[int | None] | None, least: int, because: str
) -> tuple[int | None, ...]:
    """Return the checked shape of one image.

    Args:
        input_shape: `(height, width, channels)`, or `(channels, height, width)` where
            `keras.config.image_data_format()` is `"channels_first"`; sides may be
            None. None: 224 x 224 pixels of 3 channels.
        least: shortest side, in pixels.
        because: what asks for `least`, for the message.

    Raises:
        ValueError: if it is not of rank 3, its channels unknown or a side too short.
    """
    axis = channel_axis()
    if input_shape is None:
        return (3, 224, 224) if axis == 1 else (224, 224, 3)
    shape = tuple(input_shape)
    if (
        len(shape) != 3
        or shape[0 if axis == 1 else 2] is None
        or any(side is not None and side < least for side in image_sides(shape))
    ):
        raise ValueError(
            "`input_shape` must have rank 3, known channels "
            f"({keras.config.image_data_format()}) and sides of at least {least} "
            f"pixels {because}. Received: input_shape={input_shape}"
        )
    return shape


def scale_channels(width: float, channels: int) -> int:
    """Return `width` times the channels, rounded, and one at the least."""
    return max(1, round(width * channels))


def pool_globally(x: Any, pooling: str | None) -> Any:
    """Pool over all positions, by a layer `avg_pool` or `max_pool`; None: do not."""
    return x if pooling is None else _GLOBAL_POOLING[pooling](name=f"{pooling}_pool")(x)


def classify(x: Any, classes: int, activation: Any, **kwargs: Any) -> Any:
    """Apply the layer `predictions`, in the dtype of the weights.

    Under a mixed policy that is float32: a softmax over many classes in 16 bits
    loses digits.

    Args:
        x: `(batch, features)`.
        classes: number of outputs.
        activation: of the output; None for logits.
        **kwargs: those of `keras.layers.Dense`.

    Returns:
        `(batch, classes)`.
    """
    return keras.layers.Dense(
        classes,
        activation=activation,
        name="predictions",
        dtype=keras.config.dtype_policy().variable_dtype,
        **kwargs,
    )(x)


def build_model(
    inputs: Any, outputs: Any, weights: str | PathLike[str] | None, name: str
) -> keras.Model:
    """Return the model, with the weights of a file where one is given."""
    model = keras.Model(inputs, outputs, name=name)
    if weights is not None:
        model.load_weights(str(weights))
    return model
