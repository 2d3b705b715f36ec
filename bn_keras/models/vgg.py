"""VGG with and without BN."""

from collections.abc import Sequence
from functools import partial
from os import PathLike
from typing import Any

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.conventions import (
    build_model,
    channel_axis,
    check_arguments,
    check_choice,
    classify,
    image_shape,
    pool_globally,
    scale_channels,
)
from bn_keras.models.hidden_layer import (
    Activation,
    Initializer,
    Normalization,
    Regularizer,
    clone_initializer,
    hidden_layer,
)

# The number of 3x3 convolutions in each block, by depth: columns A, B, D and E of
# table 1.
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)
# The number of units of each hidden layer, by head.
UNITS = {"imagenet": (4096, 4096), "small": ()}


def VGG(  # noqa: N802 (builders are nouns)
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str = "vgg",
    *,
    depth: int = 16,
    head: str = "imagenet",
    activation: Activation = "relu",
    dropout: float = 0.5,
    normalization: Normalization = BatchNormalization,
    width: float = 1.0,
    kernel_initializer: Initializer = "he_normal",
    kernel_regularizer: Regularizer = None,
) -> keras.Model:
    """Build five blocks of 3x3 convolutions, each followed by 2x2 max pooling.

    With `normalization=None` this is the paper's network, with 138,357,544 parameters
    at depth 16 and 143,667,240 at depth 19. With `head="small"` it is the network for
    32x32 images with which Santurkar et al. compare training with and without BN.

    Args:
        include_top: Whether the network includes the head.
        weights: None, or the path of a `.weights.h5` or `.keras` file to load.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` if
            `keras.config.image_data_format()` is `"channels_first"`. Height and width
            may be None, except with the head `"imagenet"`. The default None stands for
            224 x 224 pixels and 3 channels.
        pooling: Global pooling of a network without the top: `"avg"`, `"max"` or None.
        classes: Number of outputs; ignored without the top.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.
        depth: Number of layers with a kernel if the head is `"imagenet"`: 11, 13, 16
            or 19.
        head: `"imagenet"` is the paper's, with two layers of 4096 units before the
            classifier. `"small"`, for 32x32 images, has global average pooling
            instead.
        activation: The nonlinearity of every convolution and 4096-unit layer, a name
            or a function.
        dropout: Fraction dropped after each layer of 4096 units, from 0 to 1. The head
            `"small"` has no dropout.
        normalization: Called as `normalization(axis=..., name=...)` for each
            convolution and each layer of 4096 units, with the axis of the channels;
            returns a layer. The linear layer then has no bias. None for no
            normalization, and layers with a bias.
        width: Factor of the number of channels of every convolution, and of the 4096
            units.
        kernel_initializer: Initializer of all layers except the classifier, which has
            Keras' default. The default is made for ReLU (He et al. 2015); the paper's
            initialization needs a shallower network trained before. With a seed,
            layers of the same shape would start with the same weights.
        kernel_regularizer: Regularizer of every kernel, including the classifier's,
            such as `keras.regularizers.L2(1e-4)`.

    Returns:
        A Functional model from `(batch, *input_shape)` to `(batch, classes)`, with the
        layers `block1_1_conv`, `block1_1_bn`, `block1_1_activation`, ...,
        `block1_pool`, ..., `fc1_dense`, `fc1_bn`, `fc1_activation`, `fc1_dropout`, ...,
        `predictions`.

    Raises:
        ValueError: If `weights` is not a file; `input_shape` does not have rank 3, is
            too small, or is unknown where the head requires it; `depth`, `head` or
            `pooling` is unknown; `width` is not positive; or `normalization` is
            neither callable nor None.

    Example:
    ```python
    from bn_keras.models import VGG

    model = VGG(input_shape=(32, 32, 3), classes=10, head="small", width=0.1)
    assert model.get_layer("block5_pool").output.shape == (None, 1, 1, 51)
    assert model.output.shape == (None, 10)
    ```

    Reference:
        Simonyan & Zisserman 2014, table 1; Santurkar et al. 2018, section 2.
    """
    check_arguments(weights, pooling, width)
    check_choice("depth", depth, CONVOLUTIONS)
    check_choice("head", head, UNITS)
    shape = image_shape(input_shape, 2 ** len(CHANNELS), "to be halved five times")
    if include_top and head == "imagenet" and None in shape:
        raise ValueError(
            '`input_shape` must have known sides for head="imagenet", which has '
            f"weights for each position. Received: input_shape={input_shape}. Use "
            'head="small" for images of any size'
        )

    def hidden(
        x: keras.KerasTensor, linear: Any, channels: int, kind: str, place: str
    ) -> keras.KerasTensor:
        layer = partial(
            linear,
            scale_channels(width, channels),
            kernel_initializer=clone_initializer(kernel_initializer),
            kernel_regularizer=kernel_regularizer,
        )
        return hidden_layer(
            x,
            layer,
            kind,
            place,
            normalization=normalization,
            activation=activation,
            axis=channel_axis() if kind == "conv" else -1,
        )

    convolution = partial(keras.layers.Conv2D, kernel_size=3, padding="same")
    inputs: Any = keras.Input(shape, name="image")
    x: Any = inputs
    blocks = zip(CHANNELS, CONVOLUTIONS[depth], strict=True)
    for block, (channels, repeats) in enumerate(blocks, start=1):
        for index in range(1, repeats + 1):
            x = hidden(x, convolution, channels, "conv", f"block{block}_{index}")
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if include_top:
        if head == "small":
            x = pool_globally(x, "avg")
        else:
            x = keras.layers.Flatten(name="flatten")(x)
        for index, units in enumerate(UNITS[head], start=1):
            x = hidden(x, keras.layers.Dense, units, "dense", f"fc{index}")
            if dropout:
                x = keras.layers.Dropout(dropout, name=f"fc{index}_dropout")(x)
        x = classify(
            x, classes, classifier_activation, kernel_regularizer=kernel_regularizer
        )
    else:
        x = pool_globally(x, pooling)
    return build_model(inputs, x, weights, name)
