"""Build and compile a recipe's model for a data set."""

import inspect
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from bn_keras import models
from bn_keras.data import Data
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.training.recipes import Recipe

# The fields of a recipe that builders take as arguments of the same name.
_BUILDER_ARGUMENTS = ("activation", "dropout", "local_response_normalization", "width")
# The size of the input where the images have different sizes.
_SIZE = (224, 224)
# The initial weights of a model that gets others before it is used.
NO_WEIGHTS = ""
# The layer whose number of outputs is that of the classes.
_HEAD = "predictions"
# The longest side of an image for which Inception gets its small stem.
_SMALL = 64


def preprocessing_for(recipe: Recipe, data: Data) -> Preprocessing:
    """Return the recipe's preprocessing with the size and channels of the input.

    Args:
        recipe: A `Recipe`.
        data: The `Data` to train on.

    Returns:
        A `Preprocessing`. If the recipe's has no size and all images of the data set
        have one size, they are used whole.

    Example:
    ```python
    from bn_keras import data
    from bn_keras.training import preprocessing_for
    from bn_keras.training.recipes import BN_MLP

    assert preprocessing_for(BN_MLP, data.digits()).size == (8, 8)
    ```
    """
    height, width, channels = data.shape
    preprocessing = recipe.preprocessing
    if preprocessing.size is None:
        if height is None or width is None:
            preprocessing = replace(preprocessing, size=_SIZE)
        else:
            preprocessing = replace(
                preprocessing, size=(height, width), crop_fraction=1.0
            )
    return preprocessing.resolve((None, None, None, channels))


def build(recipe: Recipe, data: Data) -> keras.Model:
    """Build and compile the recipe's model, its weights drawn from the recipe's seed.

    Args:
        recipe: A `Recipe`.
        data: The `Data` to train on, which determines the input and the classes.

    Returns:
        A compiled `keras.Model` of class probabilities.

    Raises:
        ValueError: If the recipe sets an option that its network does not have.

    Example:
    ```python
    from bn_keras import data
    from bn_keras.training import build
    from bn_keras.training.recipes import BN_MLP

    assert build(BN_MLP, data.digits()).output_shape == (None, 10)
    ```
    """
    keras.utils.set_random_seed(recipe.seed)
    # Only this model gets the policy, not what the caller builds afterwards.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        model = _build_network(recipe, data)
    finally:
        keras.config.set_dtype_policy(policy)
    learning_rate: Any = recipe.learning_rate
    if recipe.decay != 1:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate,
            recipe.decay_epochs * recipe.steps_per_epoch(len(data.train)),
            recipe.decay,
        )
    model.compile(
        keras.optimizers.SGD(
            learning_rate, momentum=recipe.momentum, global_clipnorm=recipe.clip_norm
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _build_network(recipe: Recipe, data: Data) -> keras.Model:
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "image_data_format must be channels_last for the data sets' images. "
            f"Received: image_data_format={keras.config.image_data_format()!r}. Call "
            "keras.config.set_image_data_format('channels_last')."
        )
    preprocessing = preprocessing_for(recipe, data)
    size: Any = preprocessing.size  # never None here
    arguments = {
        name: getattr(recipe, name)
        for name in _BUILDER_ARGUMENTS
        if getattr(recipe, name) is not None
    }
    if recipe.l2:
        arguments["kernel_regularizer"] = keras.regularizers.L2(recipe.l2)
    initial = recipe.initial_weights or NO_WEIGHTS
    # The builders read weights of the same classes only.
    from_model = initial.endswith(".keras")
    if initial != NO_WEIGHTS and not from_model:
        arguments["weights"] = recipe.initial_weights
    if recipe.model == "Inception":
        small = max(size) <= _SMALL
        arguments["stem"] = recipe.stem or ("small" if small else "imagenet")
    if recipe.initial_scale != 1:
        # The builders' own initializer, He's, with another standard deviation.
        arguments["kernel_initializer"] = keras.initializers.VarianceScaling(
            2 * recipe.initial_scale**2, "fan_in", "truncated_normal"
        )
    builder = getattr(models, recipe.model)
    parameters = inspect.signature(builder).parameters
    unknown = sorted(name for name in arguments if name not in parameters)
    if recipe.freeze_statistics and recipe.initial_weights is None:
        raise ValueError(
            f"The recipe {recipe.name} must have initial weights whose statistics can "
            "be frozen. Received: none. Give them (--initial-weights), or train the "
            "statistics."
        )
    if recipe.model != "Inception":
        unknown += [
            name for name in ("stem", "per_activation") if getattr(recipe, name)
        ]
    if unknown:
        raise ValueError(
            f"The recipe {recipe.name} must only set options of {recipe.model}. "
            f"Received: {', '.join(unknown)}. Leave it out, or choose another recipe."
        )
    model = builder(
        input_shape=(*size, preprocessing.channels),
        classes=len(data.class_names),
        normalization=_normalization(recipe),
        name=recipe.name.replace("-", "_"),
        **arguments,
    )
    if from_model:
        _copy_weights(model, initial)
    return model


def _copy_weights(model: keras.Model, path: str) -> None:
    """Give a network the weights of a trained one, except for other classes' head.

    Raises:
        ValueError: If the file is no model, or has other layers.
    """
    if not Path(path).is_file():
        raise ValueError(
            "`initial_weights` must be the path of a file that exists. Received: "
            f"{path}. Correct it (--initial-weights)."
        )
    source: Any = keras.models.load_model(path)
    weights = {layer.name: layer.get_weights() for layer in source.layers}
    for layer in model.layers:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        shapes_in_file = [weight.shape for weight in weights.get(layer.name, [])]
        if shapes == shapes_in_file:
            layer.set_weights(weights.get(layer.name, []))
        elif layer.name != _HEAD:
            raise ValueError(
                f"`initial_weights` must be of the same network. Received: {path}, "
                f"whose layer {layer.name} has weights of shapes {shapes_in_file} "
                f"instead of {shapes}. Give the recipe, width and stem that it was "
                "trained with."
            )


def _normalization(recipe: Recipe):
    """Return what a builder calls with an axis and a name to make a layer."""
    if not recipe.batch_normalization:
        return None
    layer = partial(
        BatchNormalization,
        momentum=recipe.bn_momentum,
        frozen_statistics=recipe.freeze_statistics,
        synchronized=recipe.synchronized,
    )

    def normalization(axis, name):
        # Per activation: the height and width of a feature map are axes as well.
        per_activation = recipe.per_activation and name.startswith("inception_5b")
        return layer(axis=(1, 2, 3) if per_activation else axis, name=name)

    return normalization
