"""The paper's first comparison in seconds, on digits: a network with and without BN."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

from bn_keras import data as datasets
from bn_keras.data import Data
from bn_keras.training import train
from bn_keras.training.recipes import BN_MLP, MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Measurements(NamedTuple):
    """The results of a run.

    Args:
        data: The digits.
        models: A dict from the name of a recipe to the trained Keras model.
        accuracy: A dict from the name of a recipe to its test accuracy by epoch.
    """

    data: Data
    models: dict[str, Any]
    accuracy: dict[str, list[float]]


def run(
    workdir: str | os.PathLike[str] | None = None,
    epochs: int = BN_MLP.epochs,
    on_epoch_end: Callable[[str], Any] | None = None,
) -> Measurements:
    """Train 3 x 100 sigmoid units on the bundled digits, without and with BN.

    Args:
        workdir: The folder for the models and their learning curves. With None nothing
            is written.
        epochs: The number of passes over the 1,437 training digits.
        on_epoch_end: Called with the name of the recipe after each epoch.

    Returns:
        `Measurements`.

    Reference:
        Ioffe & Szegedy 2015, section 4.1, on other digits.
    """
    digits = datasets.digits()
    models, accuracy = {}, {}
    for recipe in (MLP, BN_MLP):
        recipe = replace(recipe, epochs=epochs)
        callbacks = []
        if on_epoch_end is not None:
            callbacks.append(
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda epoch, logs, name=recipe.name: on_epoch_end(
                        name
                    )
                )
            )
        # A folder that holds an earlier demonstration is trained in again.
        model, history = train(
            recipe, digits, workdir, callbacks, verbose=0, restart=True
        )
        models[recipe.name] = model
        accuracy[recipe.name] = history["val_accuracy"]
    return Measurements(digits, models, accuracy)


def plot(measurements: Measurements) -> "Figure":
    """Plot test accuracy against epochs, like figure 1a against steps.

    Args:
        measurements: What `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    styles = {BN_MLP.name: ("With BN", "-"), MLP.name: ("Without BN", "--")}
    for name, (label, style) in styles.items():
        values = measurements.accuracy[name]
        axes.plot(range(1, len(values) + 1), values, style, label=label)
    axes.set(
        xlabel="epochs",
        ylabel="test accuracy",
        ylim=(0, 1),
        title="3 x 100 sigmoid units on 8x8 digits",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure
