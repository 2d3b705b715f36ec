"""A recipe's network for a data set, compiled.

Knows builders, optimizer and schedule; no training loop and no file.
"""

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from bn_keras import models
from bn_keras.layer.batch_normalization import BatchNormalization

# The facts of a recipe that builders take by the same name.
_NETWORK = ("activation", "dropout", "local_response_normalization", "width")
_SIZE = (224, 224)
_SMALL = 64


def preprocessing_for(recipe, data):
    """The recipe's preprocessing with the size and channels of the network's input.

    Args:
        recipe: a `bn_keras.training.recipes.Recipe`.
        data: a `bn_keras.data.Data`.

    Returns:
        A `bn_keras.images.preprocessing.Preprocessing`. Where it names no size and
        the data set's pictures have all one, they are taken whole.
    """
    height, width, channels = data.shape
    found = recipe.preprocessing
    if found.size is None and None not in (height, width):
        found = replace(found, size=(height, width), crop_fraction=1.0)
    elif found.size is None:
        found = replace(found, size=_SIZE)
    return found.resolve((None, None, None, channels))


def steps_per_epoch(recipe, data):
    """Full mini-batches in an epoch, at least one."""
    return max(1, len(data.train) // recipe.batch_size)


def build(recipe, data):
    """The recipe's model for that data, compiled, its weights drawn from the seed.

    Args:
        recipe: a `bn_keras.training.recipes.Recipe`.
        data: a `bn_keras.data.Data`.

    Returns:
        A compiled `keras.Model` of class probabilities.

    Raises:
        ValueError: for a fact that the recipe's builder has no argument for.
    """
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        model = _network(recipe, data)
    finally:
        keras.config.set_dtype_policy(policy)
    rate: Any = recipe.learning_rate
    if recipe.decay != 1:
        rate = keras.optimizers.schedules.ExponentialDecay(
            rate, recipe.decay_epochs * steps_per_epoch(recipe, data), recipe.decay
        )
    # Keras would choose XLA, in TensorFlow slow on a CPU (README, "The layer").
    slow = keras.backend.backend() == "tensorflow" and not (
        keras.distribution.list_devices("gpu")
    )
    model.compile(
        keras.optimizers.SGD(
            rate, momentum=recipe.momentum, global_clipnorm=recipe.clip_norm
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False if slow else "auto",
    )
    return model


def _network(recipe, data):
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "The data sets' pictures are (height, width, channels). Received: "
            f"image_data_format={keras.config.image_data_format()!r}; train with "
            "keras.config.set_image_data_format('channels_last')"
        )
    preprocessing = preprocessing_for(recipe, data)
    arguments = {
        name: getattr(recipe, name)
        for name in _NETWORK
        if getattr(recipe, name) is not None
    }
    if recipe.l2:
        arguments["kernel_regularizer"] = keras.regularizers.L2(recipe.l2)
    if recipe.model == "Inception":
        small = max(preprocessing.size) <= _SMALL
        arguments["stem"] = recipe.stem or ("small" if small else "imagenet")
    if recipe.initial_scale != 1:
        # He's initializer, the builder's own, with another deviation.
        arguments["kernel_initializer"] = keras.initializers.VarianceScaling(
            2 * recipe.initial_scale**2, "fan_in", "truncated_normal"
        )
    builder = getattr(models, recipe.model)
    known = inspect.signature(builder).parameters
    unknown = sorted(name for name in arguments if name not in known)
    if recipe.model != "Inception":
        unknown += [
            name for name in ("stem", "per_activation") if getattr(recipe, name)
        ]
    if unknown:
        raise ValueError(
            f"The network {recipe.model} knows no {', '.join(unknown)}. Received: the "
            f"recipe {recipe.name} with it; leave it out, or choose another recipe"
        )
    return builder(
        input_shape=(*preprocessing.size, preprocessing.channels),
        classes=len(data.class_names),
        normalization=_normalization(recipe),
        name=recipe.name.replace("-", "_"),
        **arguments,
    )


def _normalization(recipe):
    if not recipe.batch_normalization:
        return None
    layer = partial(
        BatchNormalization,
        momentum=recipe.bn_momentum,
        synchronized=recipe.synchronized,
    )

    def normalization(axis, name):
        last = recipe.per_activation and name.startswith("inception_5b")
        return layer(axis=(1, 2, 3) if last else axis, name=name)

    return normalization
