"""Inception with and without BN, from the table of figure 5."""

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
    Activation,
    Initializer,
    Normalization,
    Regularizer,
    clone_initializer,
    hidden_layer,
)
from bn_keras.models.stems import SHORTEST_SIDE


class Module(NamedTuple):
    """One row of figure 5: numbers of channels, 0 for a branch that does not exist.

    Args:
        name: Name of the module, such as `"3a"`.
        strides: Strides of the last step of each branch.
        single: The 1x1 convolution.
        triple_reduce: The 1x1 convolution before the 3x3 convolution.
        triple: The 3x3 convolution.
        double_reduce: The 1x1 convolution before the two 3x3 convolutions.
        double: The two 3x3 convolutions.
        pool: `"avg"` or `"max"`.
        projection: The 1x1 convolution after the pooling.
    """

    name: str
    strides: int
    single: int
    triple_reduce: int
    triple: int
    double_reduce: int
    double: int
    pool: str
    projection: int


# The figure prints a projection of 128 in 4c and 4d. That contradicts the outputs it
# prints (576, and 1024 after 4e); 96 agrees with them. The network that was trained
# with Caffe has what the figure prints.
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

VARIANTS = ("tensorflow", "caffe")
_CAFFE_PROJECTIONS = {"4c": 128, "4d": 128}
_POOLING = {"avg": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}


def Inception(  # noqa: N802 (builders are nouns)
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str = "inception",
    *,
    activation: Activation = "relu",
    dropout: float = 0.4,
    normalization: Normalization = None,
    local_response_normalization: bool = True,
    width: float = 1.0,
    stem: str = "imagenet",
    separable: bool = True,
    variant: str = "tensorflow",
    kernel_initializer: Initializer = "he_normal",
    kernel_regularizer: Regularizer = None,
) -> keras.Model:
    """Build the network without BN: with LRN and 40% dropout.

    With `normalization=BatchNormalization` it is BN-Baseline, which has BN before each
    nonlinearity and is otherwise the same.

    Args:
        include_top: Whether the network includes average pooling, dropout and the
            classifier.
        weights: None, or the path of a `.weights.h5` or `.keras` file to load. For
            BN-Inception also `"imagenet"`, Google's weights, which are downloaded, or
            the path of that checkpoint: see `BNInception`.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` if
            `keras.config.image_data_format()` is `"channels_first"`. Height and width
            may be None. The default None stands for 224 x 224 pixels and 3 channels.
        pooling: Global pooling of a network without the top: `"avg"`, `"max"` or None.
        classes: Number of outputs; ignored without the top.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.
        activation: The nonlinearity of every convolution, a name or a function.
        dropout: Fraction of the features dropped before the classifier, from 0 to 1.
        normalization: Called as `normalization(axis=..., name=...)` for each
            convolution, with the axis of the channels; returns a layer, which may
            depend on `name`. The convolution then has no bias. None for no
            normalization, and convolutions with a bias.
        local_response_normalization: Whether there is local response normalization
            where GoogLeNet has it: after the first pooling and before the second.
        width: Factor of the number of channels of every convolution.
        stem: `"imagenet"` is the paper's, which reduces a side 8 times before module
            3a. `"small"`, for 32x32 and 64x64 images, begins with a 3x3 convolution at
            stride 1, and pools before module 3a only if both sides are known and at
            least 64.
        separable: Whether the first convolution is separable with depth multiplier 8,
            as in the paper.
        variant: `"tensorflow"`, or `"caffe"` for the network that was trained with
            Caffe and converted to PyTorch: it pads half a kernel of zeros on every side
            where TensorFlow pads more at the bottom and right, averages count these
            zeros, and 4c and 4d have projections of 128 channels, as figure 5 prints.
            Height and width must then be multiples of 32.
        kernel_initializer: Initializer of the convolutions; the paper states none. The
            default is made for ReLU (He et al. 2015). The classifier has Keras'
            default. With a seed, layers of the same shape would start with the same
            weights.
        kernel_regularizer: Regularizer of the kernels of every convolution and of the
            classifier, such as `keras.regularizers.L2(1e-4)`.

    Returns:
        A Functional model from `(batch, *input_shape)` to `(batch, classes)`. The
        layers of a convolution are `<place>_conv`, `<place>_bn` and
        `<place>_activation`. The places are `conv1`, `conv2_reduce`, `conv2` and, in
        module 3a, `inception_3a_1x1`, `_3x3_reduce`, `_3x3`, `_double_3x3_reduce`,
        `_double_3x3_a`, `_double_3x3_b` and `_pool_projection`. The layer
        `inception_3a` returns the module's output. As in figure 5, GoogLeNet's
        auxiliary classifiers are left out.

    Raises:
        ValueError: If `weights` is not a file; `input_shape` does not have rank 3 or is
            too small for the stem; `stem` or `pooling` is unknown; `width` is not
            positive; or `normalization` is neither callable nor None.

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
    check_arguments(weights, pooling, width, pretrained=True)
    check_choice("stem", stem, SHORTEST_SIDE)
    check_choice("variant", variant, VARIANTS)
    axis = channel_axis()
    shape = image_shape(input_shape, SHORTEST_SIDE[stem], f"for stem={stem!r}")
    convolution = partial(
        _convolution,
        width=width,
        variant=variant,
        normalization=normalization,
        activation=activation,
        axis=axis,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )
    if variant == "caffe" and any((side or 1) % 32 for side in image_sides(shape)):
        # Of an even side, Caffe's pooling is TensorFlow's.
        raise ValueError(
            "`input_shape` must have sides that are multiples of 32 for "
            f'variant="caffe". Received: input_shape={input_shape}'
        )
    inputs: Any = keras.Input(shape, name="image")
    x: Any = _stem(
        inputs, convolution, stem, separable, lrn=local_response_normalization
    )
    for module in MODULES:
        x = _module(x, convolution, axis, variant, module)
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
    classifier_activation: Activation = "softmax",
    name: str = "bn_inception",
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    normalization: Normalization = BatchNormalization,
    local_response_normalization: bool = False,
    width: float = 1.0,
    stem: str = "imagenet",
    separable: bool = True,
    variant: str = "tensorflow",
    kernel_initializer: Initializer = "he_normal",
    kernel_regularizer: Regularizer = None,
) -> keras.Model:
    """Build the network of BN-x5 and BN-x30: with BN, without LRN and dropout.

    With `activation="sigmoid"` it is the network of BN-x5-Sigmoid.

    With 1000 classes it has 11,188,288 trainable parameters, or 11,194,984 if
    `separable` is False. The text of the paper states 13.6 million, which does not
    follow from its figure 5.

    With its default layers it is, layer by layer, `inception_v2` of TF-Slim. So
    `weights="imagenet"` loads Google's checkpoint of 2016 (73.9% top-1, 91.8% top-5 of
    single crops), which `keras.utils.get_file` downloads. Inputs are in RGB from -1 to
    1 (`preprocess_input`), the central 87.5% of an image. With 1,000 classes the
    background class there is dropped; with 1,001 it is the first one. With any other
    number of classes the classifier is new. Loading was tested with checkpoints of the
    same names and shapes, not with the published file.

    Args:
        include_top, weights, ...: The arguments are those of `Inception`. The defaults
            of `dropout`, `normalization` and `local_response_normalization` differ.

    Returns:
        A Functional model from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: As for `Inception`, and if a checkpoint is damaged or is that of
            another network. The text names the variables.

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
        variant=variant,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )


def _convolution(
    x: keras.KerasTensor,
    name: str,
    filters: int,
    size: int,
    strides: int = 1,
    depth_multiplier: int | None = None,
    *,
    width: float,
    variant: str,
    normalization: Normalization,
    activation: Activation,
    axis: int,
    kernel_initializer: Initializer,
    kernel_regularizer: Regularizer,
) -> keras.KerasTensor:
    initializer = partial(clone_initializer, kernel_initializer)
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
    if variant == "caffe" and strides > 1:
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_padding")(x)
    return hidden_layer(
        x,
        partial(layer, strides=strides, padding=_padding(variant, strides > 1)),
        "conv",
        name,
        normalization=normalization,
        activation=activation,
        axis=axis,
    )


def _padding(variant: str, differs: bool) -> str:
    """Return the padding of a layer whose input is padded before if that differs."""
    return "valid" if variant == "caffe" and differs else "same"


def _stem(
    inputs: keras.KerasTensor,
    convolution: Callable[..., keras.KerasTensor],
    stem: str,
    separable: bool,
    lrn: bool,
) -> keras.KerasTensor:
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
    # Of 32x32 pixels a second pooling would leave too few for the modules.
    if not small or all((side or 0) >= 64 for side in image_sides(inputs.shape[1:])):
        x = keras.layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)
    return x


def _module(
    x: keras.KerasTensor,
    convolution: Callable[..., keras.KerasTensor],
    axis: int,
    variant: str,
    module: Module,
) -> keras.KerasTensor:
    # Only the last step of each branch has strides, so that the others see all pixels.
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
    # Maxima of zeros and what comes from a ReLU do not depend on the zeros.
    differs = module.pool == "avg"
    pool: Any = x
    if variant == "caffe" and differs:
        pool = keras.layers.ZeroPadding2D(1, name=f"{prefix}_pool_padding")(pool)
    layer = _POOLING[module.pool]
    pool_padding = _padding(variant, differs)
    pool = layer(3, strides, padding=pool_padding, name=f"{prefix}_pool")(pool)
    projection = module.projection
    if variant == "caffe":
        projection = _CAFFE_PROJECTIONS.get(module.name, projection)
    if projection:
        pool = convolution(pool, f"{prefix}_pool_projection", projection, 1)
    branches.append(pool)
    return keras.layers.Concatenate(axis=axis, name=prefix)(branches)
