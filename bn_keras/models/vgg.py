"""VGG with and without BN: table 1 as one table, built by one loop.

Knows no recipe: learning rates, L2 and distortions stand elsewhere.
"""

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
    Normalization,
    fresh_initializer,
    hidden_layer,
)

# Depth to the 3x3 convolutions of each block: columns A, B, D and E of table 1.
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)
# Head to the units of its hidden layers.
UNITS = {"imagenet": (4096, 4096), "small": ()}


def VGG(  # noqa: N802 (builders are nouns)
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg",
    *,
    depth: int = 16,
    head: str = "imagenet",
    activation: Any = "relu",
    dropout: float = 0.5,
    normalization: Normalization = BatchNormalization,
    width: float = 1.0,
    kernel_initializer: Any = "he_normal",
    kernel_regularizer: Any = None,
) -> keras.Model:
    """Five blocks of 3x3 convolutions, each block ended by a 2x2 max pooling.

    With `normalization=None` it is the paper's: 138,357,544 parameters at depth 16,
    143,667,240 at depth 19. `head="small"` makes the network of 32x32 images in which
    Santurkar et al. compare training with and without BN.

    Args:
        include_top: whether the head is there.
        weights: None, or the path of a `.weights.h5` or `.keras` file to load.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` where
            `keras.config.image_data_format()` is `"channels_first"`; sides may be
            None but under the head `"imagenet"`. None: 224 x 224 pixels of 3 channels.
        pooling: without the top, `"avg"` or `"max"` over all positions, or None.
        classes: number of outputs; ignored without the top.
        classifier_activation: of the output; None for logits.
        name: name of the model.
        depth: layers with a kernel under the head `"imagenet"`: 11, 13, 16 or 19.
        head: `"imagenet"`, the paper's, has two layers of 4096 units before the
            classifier. `"small"`, for 32x32, has global average pooling instead.
        activation: the nonlinearity of every convolution and 4096-unit layer.
        dropout: share dropped after each layer of 4096 units, 0 to 1; the head
            `"small"` has no such layer.
        normalization: called as `normalization(axis=..., name=...)` for each
            convolution and each layer of 4096 units, `axis` being that of the
            channels; the layer then has no bias. None: no normalization, with bias.
        width: multiplies the channels of every convolution, and the 4096 units.
        kernel_initializer: of all layers but the classifier, which has Keras'
            Glorot. He's, made for ReLU (He et al. 2015), is chosen: the paper's
            needs a shallower network trained first. Give no seed to an initializer:
            layers of one shape would start equal.
        kernel_regularizer: of every kernel, the classifier's too; such as
            `keras.regularizers.L2`.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, classes)`, with layers
        `block1_1_conv`, `block1_1_bn`, `block1_1_activation`, ..., `block1_pool`,
        ..., `fc1_dense`, `fc1_bn`, `fc1_activation`, `fc1_dropout`, ...,
        `predictions`.

    Raises:
        ValueError: if `weights` is no file, `input_shape` not of rank 3, too small or
            unknown where the head must know it, `depth`, `head` or `pooling` unknown,
            `width` not positive, or `normalization` neither callable nor None.

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
    shape = image_shape(input_shape, 2 ** len(CHANNELS), "for five halvings")
    if include_top and head == "imagenet" and None in shape:
        raise ValueError(
            '`input_shape` must have known sides for head="imagenet", which has a '
            'weight for each position; head="small" takes any. '
            f"Received: input_shape={input_shape}"
        )

    def hidden(x: Any, linear: Any, channels: int, kind: str, place: str) -> Any:
        layer = partial(
            linear,
            scale_channels(width, channels),
            kernel_initializer=fresh_initializer(kernel_initializer),
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
    x = inputs = keras.Input(shape, name="image")
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
