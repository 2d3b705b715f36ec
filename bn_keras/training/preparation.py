"""What is decided and checked before a training run starts."""

import warnings
from dataclasses import replace

import keras

from bn_keras.data import Data, Files
from bn_keras.data.picture_files import MANY
from bn_keras.training.build_model import preprocessing_for
from bn_keras.training.callbacks import BackgroundCheck
from bn_keras.training.distribution import OneDevice
from bn_keras.training.recipes import Recipe
from bn_keras.training.run_record import Run

# Where an epoch is chosen and there are no validation examples, the first of every so
# many training examples of a class is one.
HELD_OUT_EVERY = 10
# With fewer examples, statistics are too noisy: Wu & He 2018, "Group Normalization",
# figure 1.
FEWEST_EXAMPLES = 16


def selects(recipe: Recipe) -> bool:
    """Return whether a run's validation results decide which weights it ends with."""
    return recipe.keep_best or recipe.patience is not None


def divide(recipe: Recipe, data: Data) -> Data:
    """Return the data with validation examples, if the recipe chooses an epoch.

    Test examples are not used for that: their accuracy would no longer be that of
    examples on which nothing depends.

    Args:
        recipe: A `Recipe`.
        data: A `Data`.

    Raises:
        ValueError: If none of the training examples can be held out.
    """
    if not selects(recipe) or data.validation is not None:
        return data
    train, validation = data.train.hold_out(HELD_OUT_EVERY)
    return replace(data, train=train, validation=validation)


def describe_run(
    recipe: Recipe, data: Data, devices: OneDevice, tensorboard: bool = False
) -> Run:
    """Return the record of a run before it starts, after checking that it can start.

    Args:
        recipe: A `Recipe`.
        data: The `Data` to train on.
        devices: The devices to train on.
        tensorboard: As in `train`.

    Raises:
        ValueError: If the recipe cannot be trained on the data with these devices.
    """
    if tensorboard and devices.machines > 1:
        raise ValueError(
            "`tensorboard` must be False on several machines. Received: "
            f"tensorboard=True on {devices.machines} machines. Leave it out."
        )
    if selects(recipe) and devices.machines > 1:
        raise ValueError(
            "`keep_best` and `patience` must not be used on several machines. "
            f"Received: {devices.machines} machines. Leave them out."
        )
    fingerprint = data.train.fingerprint()
    data = divide(recipe, data)
    if len(data.class_names) < 2:
        raise ValueError(
            "`data` must have at least two classes. Received: "
            f"{', '.join(data.class_names)}. Add images of another class."
        )
    if recipe.batch_size > len(data.train):
        raise ValueError(
            f"The batch size must be at most {len(data.train):,}, the number of "
            f"training examples. Received: {recipe.batch_size:,}. Choose a smaller one "
            "(--batch-size)."
        )
    if recipe.batch_size % devices.replicas:
        raise ValueError(
            f"The batch size must be divisible by the {devices.replicas} devices. "
            f"Received: {recipe.batch_size}. Choose another one (--batch-size)."
        )
    return Run(
        recipe,
        data.name,
        len(data.train),
        data.class_names,
        preprocessing_for(recipe, data),
        fingerprint,
    )


def check_files(data: Data) -> list[BackgroundCheck]:
    """Decode the files of a data set once, or return the callback that does so later.

    Raises:
        ValueError: If a file cannot be read.
    """
    checks = []
    for split in (data.validation or data.test, data.train):
        if isinstance(split, Files):
            if len(split.unchecked()) <= MANY:
                split.check()
            elif split is data.train:
                checks.append(BackgroundCheck(split))
    return checks


def warn_of_small_batches(recipe: Recipe, devices: OneDevice) -> None:
    """Warn if a statistic is computed over few examples."""
    examples = recipe.batch_size
    if not recipe.synchronized and keras.backend.backend() == "tensorflow":
        examples //= devices.replicas
    if (
        recipe.batch_normalization
        and not recipe.freeze_statistics
        and examples < FEWEST_EXAMPLES
    ):
        warnings.warn(
            f"batch normalization computes its statistics over {examples} examples, "
            f"which is noisy below {FEWEST_EXAMPLES}: use larger mini-batches "
            "(--batch-size), --synchronized on several devices, or --freeze-statistics "
            "with --initial-weights",
            stacklevel=3,
        )
