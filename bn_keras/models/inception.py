"""Inception with and without BN: figure 5 as one table, built by one loop.

Knows no recipe: learning rates, L2 and distortions stand elsewhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.layer.local_response_normalization import LocalResponseNormalization
from bn_keras.models.conventions import (
    build_model,
    channel_axis,
    check_arguments,
    check_choice,
    classify,
    image_shape,
    image_sides,
    pool_globally,
    scale_channels,
)
from bn_keras.models.hidden_layer import (
    Normalization,
    fresh_initializer,
    hidden_layer,
)
from bn_keras.models.stems import SHORTEST_SIDE


class Module(NamedTuple):
    """One row of figure 5, in channels; 0 stands for a branch that is not there."""

    name: str
    strides: int
    single: int
    triple_reduce: int
    triple: int
    double_reduce: int
    double: int
    pool: str
    projection: int


# The figure prints a projection of 128 in 4c and 4d, which contradicts its printed
# outputs (576, and 1024 after 4e); 96 agrees with them.
MODULES = (
    Module("3a", 1, 64, 64, 64, 64, 96, "avg", 32),
    Module("3b", 1, 64, 64, 96, 64, 96, "avg", 64),
    Module("3c", 2, 0, 128, 160, 64, 96, "max", 0),
    Module("4a", 1, 224, 64, 96, 96, 128, "avg", 128),
    Module("4b", 1, 192, 96, 128, 96, 128, "avg", 128),
    Module("4c", 1, 160, 128, 160, 128, 160, "avg", 96),
    Module("4d", 1, 96, 128, 192, 160, 192, "avg", 96),
    Module("4e", 2, 0, 128, 192, 192, 256, "max", 0),
    Module("5a", 1, 352, 192, 320, 160, 224, "avg", 128),
    Module("5b", 1, 352, 192, 320, 192, 224, "max", 128),
)

_POOLING = {"avg": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}


def Inception(  # noqa: N802 (builders are nouns)
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "inception",
    *,
    activation: Any = "relu",
    dropout: float = 0.4,
    normalization: Normalization = None,
    local_response_normalization: bool = True,
    width: float = 1.0,
    stem: str = "imagenet",
    separable: bool = True,
    kernel_initializer: Any = "he_normal",
    kernel_regularizer: Any = None,
) -> keras.Model:
    """The network that BN is measured against: no BN, LRN, 40 % dropout.

    `normalization=BatchNormalization` makes it BN-Baseline: BN before each
    nonlinearity, all else equal.

    Args:
        include_top: whether average pooling, dropout and the classifier are there.
        weights: None, or the path of a `.weights.h5` or `.keras` file to load.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` where
            `keras.config.image_data_format()` is `"channels_first"`; sides may be
            None. None: 224 x 224 pixels of 3 channels.
        pooling: without the top, `"avg"` or `"max"` over all positions, or None.
        classes: number of outputs; ignored without the top.
        classifier_activation: of the output; None for logits.
        name: name of the model.
        activation: the nonlinearity of every convolution.
        dropout: share of the features dropped before the classifier, 0 to 1.
        normalization: called as `normalization(axis=..., name=...)` for each
            convolution, `axis` being that of the channels; the convolution then has
            no bias. None: no normalization, with bias. It may look at `name` and
            return another layer in some places.
        local_response_normalization: whether it stands where GoogLeNet has it, after
            the first pooling and before the second.
        width: multiplies the channels of every convolution.
        stem: `"imagenet"`, the paper's, reduces a side 8 times before module 3a.
            `"small"`, for 32x32 and 64x64, begins with 3x3 at stride 1, and pools
            before 3a only if both sides are at least 64; a side that is None does
            not pool.
        separable: whether the first convolution is separable with depth multiplier
            8, the paper's, or plain.
        kernel_initializer: of the convolutions; the paper states none. He's, made
            for ReLU (He et al. 2015), is chosen; the classifier has Keras' Glorot.
            Give no seed to an initializer: layers of one shape would start equal.
        kernel_regularizer: of every convolution's kernel, both of a separable one,
            and of the classifier's; such as `keras.regularizers.L2`.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, classes)`. The layers
        of a convolution are `<place>_conv`, `<place>_bn`, `<place>_activation`; the
        places are `conv1`, `conv2_reduce`, `conv2` and, in module 3a,
        `inception_3a_1x1`, `_3x3_reduce`, `_3x3`, `_double_3x3_reduce`,
        `_double_3x3_a`, `_double_3x3_b`, `_pool_projection`. `inception_3a` is the
        module's output. GoogLeNet's auxiliary classifiers, which figure 5 does not
        have, are left out.

    Raises:
        ValueError: if `weights` is no file, `input_shape` not of rank 3 or too small
            for the stem, `stem` or `pooling` unknown, `width` not positive, or
            `normalization` neither callable nor None.

    Example:
    ```python
    from bn_keras.models import Inception

    model = Inception(input_shape=(32, 32, 3), classes=10, stem="small", width=0.1)
    assert model.output.shape == (None, 10)
    assert model.get_layer("inception_3c").output.shape[1:3] == (16, 16)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.2 and figure 5; Szegedy et al. 2014.
    """
    check_arguments(weights, pooling, width)
    check_choice("stem", stem, SHORTEST_SIDE)
    axis = channel_axis()
    shape = image_shape(input_shape, SHORTEST_SIDE[stem], f"for stem={stem!r}")
    convolution = partial(
        _convolution,
        width=width,
        normalization=normalization,
        activation=activation,
        axis=axis,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )
    inputs = keras.Input(shape, name="image")
    x = _stem(inputs, convolution, stem, separable, lrn=local_response_normalization)
    for module in MODULES:
        x = _module(x, convolution, axis, module)
    if include_top:
        x = pool_globally(x, "avg")
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        x = classify(
            x, classes, classifier_activation, kernel_regularizer=kernel_regularizer
        )
    else:
        x = pool_globally(x, pooling)
    return build_model(inputs, x, weights, name)


def BNInception(  # noqa: N802 (builders are nouns)
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "bn_inception",
    *,
    activation: Any = "relu",
    dropout: float = 0.0,
    normalization: Normalization = BatchNormalization,
    local_response_normalization: bool = False,
    width: float = 1.0,
    stem: str = "imagenet",
    separable: bool = True,
    kernel_initializer: Any = "he_normal",
    kernel_regularizer: Any = None,
) -> keras.Model:
    """The network of BN-x5 and BN-x30: BN, no LRN, no dropout.

    `activation="sigmoid"` makes it BN-x5-Sigmoid's.

    With 1000 classes it has 11,188,288 trainable parameters (11,194,984 with a plain
    first layer). The 13.6 million of the paper's text follow from no reading of its
    figure 5.

    Args:
        include_top: as all that follow, see `Inception`; only the defaults differ.
        weights: file to load, or None.
        input_shape: shape of one image, or None.
        pooling: without the top, `"avg"`, `"max"` or None.
        classes: number of outputs.
        classifier_activation: of the output.
        name: name of the model.
        activation: the nonlinearity of every convolution.
        dropout: share of the features dropped; 0: no such layer.
        normalization: called as `normalization(axis=..., name=...)`.
        local_response_normalization: whether it is there.
        width: multiplies the channels.
        stem: `"imagenet"` or `"small"`.
        separable: whether the first convolution is.
        kernel_initializer: of the convolutions.
        kernel_regularizer: of every kernel.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: as `Inception`.

    Example:
    ```python
    from bn_keras.models import BNInception

    model = BNInception(input_shape=(32, 32, 3), classes=10, stem="small", width=0.1)
    assert model.get_layer("inception_5b_1x1_bn").output.shape == (None, 8, 8, 35)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.2 and figure 5.
    """
    return Inception(
        include_top,
        weights,
        input_shape,
        pooling,
        classes,
        classifier_activation,
        name,
        activation=activation,
        dropout=dropout,
        normalization=normalization,
        local_response_normalization=local_response_normalization,
        width=width,
        stem=stem,
        separable=separable,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )


def _convolution(
    x: Any,
    name: str,
    filters: int,
    size: int,
    strides: int = 1,
    depth_multiplier: int | None = None,
    *,
    width: float,
    normalization: Normalization,
    activation: Any,
    axis: int,
    kernel_initializer: Any,
    kernel_regularizer: Any,
) -> Any:
    initializer = partial(fresh_initializer, kernel_initializer)
    channels = scale_channels(width, filters)
    if depth_multiplier is None:
        layer = partial(
            keras.layers.Conv2D,
            channels,
            size,
            kernel_initializer=initializer(),
            kernel_regularizer=kernel_regularizer,
        )
    else:
        layer = partial(
            keras.layers.SeparableConv2D,
            channels,
            size,
            depth_multiplier=depth_multiplier,
            depthwise_initializer=initializer(),
            pointwise_initializer=initializer(),
            depthwise_regularizer=kernel_regularizer,
            pointwise_regularizer=kernel_regularizer,
        )
    return hidden_layer(
        x,
        partial(layer, strides=strides, padding="same"),
        "conv",
        name,
        normalization=normalization,
        activation=activation,
        axis=axis,
    )


def _stem(
    inputs: Any, convolution: Callable[..., Any], stem: str, separable: bool, lrn: bool
) -> Any:
    small = stem == "small"
    size, strides = (3, 1) if small else (7, 2)
    x = convolution(inputs, "conv1", 64, size, strides, 8 if separable else None)
    if not small:
        x = keras.layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    if lrn:
        x = LocalResponseNormalization(name="lrn1")(x)
    x = convolution(x, "conv2_reduce", 64, 1)
    x = convolution(x, "conv2", 192, 3)
    if lrn:
        x = LocalResponseNormalization(name="lrn2")(x)
    if not small or all((side or 0) >= 64 for side in image_sides(inputs.shape[1:])):
        x = keras.layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)
    return x


def _module(x: Any, convolution: Callable[..., Any], axis: int, module: Module) -> Any:
    prefix, strides = f"inception_{module.name}", module.strides
    branches = []
    if module.single:
        branches.append(convolution(x, f"{prefix}_1x1", module.single, 1))
    triple = convolution(x, f"{prefix}_3x3_reduce", module.triple_reduce, 1)
    branches.append(convolution(triple, f"{prefix}_3x3", module.triple, 3, strides))
    double = convolution(x, f"{prefix}_double_3x3_reduce", module.double_reduce, 1)
    double = convolution(double, f"{prefix}_double_3x3_a", module.double, 3)
    branches.append(
        convolution(double, f"{prefix}_double_3x3_b", module.double, 3, strides)
    )
    pool = _POOLING[module.pool](3, strides, padding="same", name=f"{prefix}_pool")(x)
    if module.projection:
        pool = convolution(pool, f"{prefix}_pool_projection", module.projection, 1)
    branches.append(pool)
    return keras.layers.Concatenate(axis=axis, name=prefix)(branches)
