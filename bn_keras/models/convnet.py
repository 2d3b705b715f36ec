"""A small convolutional network for small images, which a laptop can train."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.conventions import channel_axis, classify, image_sides
from bn_keras.models.hidden_layer import (
    Activation,
    Initializer,
    Normalization,
    clone_initializer,
    hidden_layer,
)


def ConvNet(  # noqa: N802 (builders are nouns)
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    filters: Sequence[int] = (16, 32),
    activation: Activation = "relu",
    normalization: Normalization = BatchNormalization,
    kernel_initializer: Initializer = "he_normal",
    classifier_activation: Activation = "softmax",
    name: str = "convnet",
) -> keras.Model:
    """Build stages of 3x3 convolution, BN, nonlinearity and 2x2 max pooling.

    This network is not from the papers.

    Args:
        input_shape: `(height, width, channels)`, or `(channels, height, width)` if
            `keras.config.image_data_format()` is `"channels_first"`. Height and width
            must be at least `2 ** len(filters)` pixels.
        classes: Number of outputs.
        filters: Number of channels of each stage.
        activation: The nonlinearity, a name or a function.
        normalization: Called as `normalization(axis=..., name=...)` for each stage,
            with the axis of the channels; returns a layer. The convolution then has no
            bias. None for no normalization, and convolutions with a bias.
        kernel_initializer: Initializer of the convolutions. The default is made for
            ReLU (He et al. 2015). With a seed, layers of the same shape would start
            with the same weights.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.

    Returns:
        A Functional model from `(batch, *input_shape)` to `(batch, classes)`, with the
        layers `stage_1_conv`, `stage_1_bn`, `stage_1_activation`, `stage_1_pool`, ...,
        `predictions`.

    Raises:
        ValueError: If `input_shape` does not have rank 3 or is too small, or
            `normalization` is neither callable nor None.

    Example:
    ```python
    from bn_keras.models import ConvNet

    model = ConvNet((8, 8, 1))
    assert model.get_layer("stage_2_pool").output.shape == (None, 2, 2, 32)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 3.2 (the place of BN).
    """
    # Every stage halves the sides; the last one must leave a pixel.
    shape, shortest_side = tuple(input_shape), 2 ** len(filters)
    if len(shape) != 3 or any(
        side is None or side < shortest_side for side in image_sides(shape)
    ):
        raise ValueError(
            "`input_shape` must have rank 3 (channels included) and sides of at least "
            f"{shortest_side} pixels, which are halved once for each of `filters`. "
            f"Received: input_shape={input_shape}, filters={filters}"
        )
    inputs = keras.Input(shape, name="image")
    x: Any = inputs
    for index, channels in enumerate(filters, start=1):
        convolution = partial(
            keras.layers.Conv2D,
            channels,
            3,
            padding="same",
            kernel_initializer=clone_initializer(kernel_initializer),
        )
        x = hidden_layer(
            x,
            convolution,
            "conv",
            f"stage_{index}",
            normalization=normalization,
            activation=activation,
            axis=channel_axis(),
        )
        x = keras.layers.MaxPooling2D(2, name=f"stage_{index}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = classify(x, classes, classifier_activation)
    return keras.Model(inputs, outputs, name=name)
