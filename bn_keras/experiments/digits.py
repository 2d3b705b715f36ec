"""The papers' first comparison in seconds: one network with and without BN, on digits.

Knows the two recipes and how to draw their learning curves; nothing of serving.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import keras

from bn_keras import data as datasets
from bn_keras.training import train
from bn_keras.training.recipes import BN_MLP, MLP


class Measurements(NamedTuple):
    """What a run leaves.

    Args:
        data: the digits.
        models: dict from recipe name to the trained Keras model.
        accuracy: dict from recipe name to the test accuracy after each epoch.
    """

    data: datasets.Data
    models: dict[str, Any]
    accuracy: dict[str, list[float]]


def run(workdir=None, epochs=BN_MLP.epochs, on_epoch_end=None):
    """Train 3 x 100 sigmoid units on the bundled digits, without and with BN.

    Args:
        workdir: folder for the models and their learning curves; None for none.
        epochs: passes over the 1,437 training digits.
        on_epoch_end: called with the recipe's name after each epoch.

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
        model, history = train(recipe, digits, workdir, callbacks, verbose=0)
        models[recipe.name] = model
        accuracy[recipe.name] = history["val_accuracy"]
    return Measurements(digits, models, accuracy)


def plot(measurements):
    """Test accuracy against epochs, as figure 1a has it against steps.

    Args:
        measurements: what `run` returned.

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
