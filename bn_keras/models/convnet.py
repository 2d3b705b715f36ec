"""A small convolutional network for small images, from 8x8 digits upward.

Knows no data set. It is no network of the papers: it is what a laptop can train.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.conventions import channel_axis, classify, image_sides
from bn_keras.models.hidden_layer import (
    Normalization,
    fresh_initializer,
    hidden_layer,
)


def ConvNet(  # noqa: N802 (builders are nouns)
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    filters: Sequence[int] = (16, 32),
    activation: Any = "relu",
    normalization: Normalization = BatchNormalization,
    kernel_initializer: Any = "he_normal",
    classifier_activation: Any = "softmax",
    name: str = "convnet",
) -> keras.Model:
    """Stages of 3x3 convolution, BN, nonlinearity and 2x2 max pooling.

    Args:
        input_shape: `(height, width, channels)`, or `(channels, height, width)` where
            `keras.config.image_data_format()` is `"channels_first"`. Every side is at
            least `2 ** len(filters)` pixels.
        classes: number of outputs.
        filters: channels of each stage.
        activation: the nonlinearity.
        normalization: called as `normalization(axis=..., name=...)` for each stage,
            `axis` being that of the channels; the convolution then has no bias. None:
            no normalization, with bias.
        kernel_initializer: of the convolutions; He's, made for ReLU (He et al. 2015).
            Give no seed to an initializer: layers of one shape would start equal.
        classifier_activation: of the output; None for logits.
        name: name of the model.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, classes)`, with layers
        `stage_1_conv`, `stage_1_bn`, `stage_1_activation`, `stage_1_pool`, ...,
        `predictions`.

    Raises:
        ValueError: if `input_shape` is not of rank 3 or too small, or `normalization`
            neither callable nor None.

    Example:
    ```python
    from bn_keras.models import ConvNet

    model = ConvNet((8, 8, 1))
    assert model.get_layer("stage_2_pool").output.shape == (None, 2, 2, 32)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 3.2 (where BN stands).
    """
    shape, least = tuple(input_shape), 2 ** len(filters)
    if len(shape) != 3 or any(
        side is None or side < least for side in image_sides(shape)
    ):
        raise ValueError(
            "`input_shape` must have rank 3 (channels included) and sides of at least "
            f"{least} pixels, one halving for each of `filters`. "
            f"Received: input_shape={input_shape}, filters={filters}"
        )
    x = inputs = keras.Input(shape, name="image")
    for index, channels in enumerate(filters, start=1):
        convolution = partial(
            keras.layers.Conv2D,
            channels,
            3,
            padding="same",
            kernel_initializer=fresh_initializer(kernel_initializer),
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
