"""Train a model on a data set by a recipe."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras

from bn_keras.data import Data, Shuffling, report_bad_files
from bn_keras.errors import DivergenceError
from bn_keras.population import estimate_population_statistics
from bn_keras.training import checkpoints
from bn_keras.training.build_model import build, preprocessing_for, steps_per_epoch
from bn_keras.training.callbacks import DivergenceStop, ProgressBar, Summaries
from bn_keras.training.distribution import OneDevice
from bn_keras.training.outputs import Outputs
from bn_keras.training.recipes import Recipe
from bn_keras.training.run_record import Run

# The number of images on which TensorBoard's percentiles are computed.
SUMMARY_IMAGES = 32


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
    )


def train(
    recipe: Recipe,
    data: Data,
    workdir: str | os.PathLike[str] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
    *,
    checkpoint_steps: int | None = None,
    tensorboard: bool = False,
    distributed: OneDevice | None = None,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train by a recipe, then estimate the population statistics on training examples.

    A run that was killed resumes from its last checkpoint when this function is called
    again. On a CPU it ends with bitwise the same weights as a run that was not killed.

    Args:
        recipe: A `Recipe`.
        data: The `Data` to train and to validate on.
        workdir: An existing folder, or `None` to write nothing. It receives
            `RECIPE.keras`, the model; `RECIPE.csv`, the learning curve, a line for each
            epoch; `RECIPE.json`, the record of the run; and, until the run is done,
            `RECIPE.checkpoints`, written after each epoch. Several machines share it.
        callbacks: Further Keras callbacks.
        verbose: 0 for no output; any other value shows a progress bar.
        checkpoint_steps: The number of steps between two checkpoints within an epoch.
            `None` writes them after each epoch only.
        tensorboard: Whether to write `WORKDIR/RECIPE.tensorboard`.
        distributed: What `bn_keras.training.distribution.start` returned. `None` is one
            device.

    Returns:
        `(model, history)`: the trained model, and a dict from `loss`, `accuracy`,
        `val_loss` and `val_accuracy` to their value by epoch. The last two are measured
        on the test examples with the moving averages. For an epoch that was resumed,
        the first two cover the steps after the checkpoint.

    Raises:
        DivergenceError: If the loss becomes NaN or infinite. The last checkpoint is
            kept.
        ValueError: If `workdir` holds an unfinished run that differs, or a mini-batch
            cannot be divided over the devices.

    Note:
        On several replicas Keras draws one dropout mask for all of them. Without
        dropout they train as one device does on the joint mini-batch.

    Example:
    ```python
    from dataclasses import replace

    from bn_keras import data
    from bn_keras.training.recipes import BN_MLP
    from bn_keras.training import train

    model, history = train(replace(BN_MLP, epochs=2), data.digits(), verbose=0)
    assert history["val_accuracy"][-1] > 0.5
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2.
    """
    devices = distributed or OneDevice()
    run = describe_run(recipe, data, devices, tensorboard)
    outputs = None
    if workdir is not None:
        outputs = Outputs(workdir, recipe.name, chief=devices.machine == 0)
    callbacks = list(callbacks)
    steps = steps_per_epoch(recipe, data)
    with ExitStack() as stack:
        if outputs is not None:
            stack.callback(outputs.close)
        with ExitStack() as training:
            # After the training even if it fails: the caller's next model must not be
            # distributed.
            training.callback(devices.close)
            with devices.scope():
                model = build(recipe, data)
                start = 0 if outputs is None else outputs.resume(model, run, steps)
            callbacks.append(DivergenceStop(start))
            if outputs is not None:
                callbacks += outputs.callbacks(start, checkpoint_steps, steps)
                if tensorboard and outputs.chief:
                    callbacks.append(Summaries(outputs.tensorboard, _sample(run, data)))
            if verbose and devices.machine == 0:
                total = recipe.epochs * steps
                bar = ProgressBar(start, total, steps, recipe.batch_size)
                callbacks.append(bar)
                training.callback(bar.stop)
            training.enter_context(report_bad_files(data.train, data.test))
            training.enter_context(_explain_divergence(recipe, outputs))
            history = _fit(model, run, data, devices, start, callbacks)
        if devices.replicas > 1:
            # A model on one device: a distributed one can be used only under its
            # strategy.
            weights = model.get_weights()
            model = build(recipe, data)
            model.set_weights(weights)
        if recipe.batch_normalization:
            with report_bad_files(data.train):
                _estimate_population(model, run, data, devices)
        if outputs is not None:
            # That of all epochs, also of those before this run was resumed.
            history = outputs.history()
            if outputs.chief:
                outputs.finish(model, run)
    return model, history


def _estimate_population(
    model: keras.Model, run: Run, data: Data, devices: OneDevice
) -> None:
    """Estimate the population statistics on mini-batches of an epoch after the last.

    Training has not seen the examples in that order.
    """
    recipe, parts = run.recipe, 1
    if not recipe.synchronized and keras.backend.backend() == "tensorflow":
        # Training normalized each replica's part of a mini-batch separately, so the
        # statistics must be of mini-batches of that size. Keras on JAX always
        # normalizes the joint mini-batch.
        parts = devices.replicas
    batches = _batches(
        run,
        data,
        batch_size=recipe.batch_size // parts,
        first_epoch=recipe.epochs,
        epochs=1,
    )
    count = recipe.population_batches
    if count is not None:
        count = min(parts * count, parts * len(data.train) // recipe.batch_size)
    estimate_population_statistics(model, batches, "pooled", count, verbose=0)


@contextmanager
def _explain_divergence(recipe: Recipe, outputs: Outputs | None) -> Iterator[None]:
    """Add to a `DivergenceError` which checkpoint is left, and what may help."""
    try:
        yield
    except DivergenceError as error:
        kept = "no checkpoint"
        if outputs is not None and (
            paths := checkpoints.checkpoints(outputs.checkpoints)
        ):
            kept = f"the last good checkpoint {paths[0]}"
        raise DivergenceError(
            f"{error}. Received: learning_rate={recipe.learning_rate}, {kept}. Train "
            "again in another folder with a lower learning rate."
        ) from None


def _fit(
    model: Any,  # Keras annotates `verbose` as a string
    run: Run,
    data: Data,
    devices: OneDevice,
    start: int,
    callbacks: list[keras.callbacks.Callback],
) -> dict[str, list[float]]:
    """Train from step `start` to the end, and return the history of these epochs."""
    recipe, steps = run.recipe, steps_per_epoch(run.recipe, data)
    history = {}
    while start < recipe.epochs * steps:
        # Keras' epochs have a fixed number of steps. So the rest of an epoch that was
        # interrupted is one call of `fit`, and all later epochs are another.
        epoch, steps_made = divmod(start, steps)
        epochs = epoch + 1 if steps_made else recipe.epochs
        # One endless stream for all epochs: its mini-batches are determined by their
        # number, not by where `fit` begins.
        make_part = partial(_batches, run, data, first_batch=start, epochs=None)
        result = model.fit(
            devices.training_input(make_part, recipe.batch_size),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps - steps_made,
            validation_data=devices.validation_input(data.test, run.preprocessing),
            callbacks=callbacks,
            shuffle=False,  # the stream is shuffled
            verbose=0,
        )
        for name, values in result.history.items():
            history.setdefault(name, []).extend(values)
        start = epochs * steps
    return history


def _batches(
    run: Run,
    data: Data,
    part: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    **position: Any,
):
    """Return the run's training mini-batches from a position of their stream."""
    recipe = run.recipe
    return data.train.batches(
        batch_size or recipe.batch_size,
        Shuffling(recipe.seed, recipe.within_shards),
        run.preprocessing,
        recipe.distortion,
        part=part,
        **position,
    )


def _sample(run: Run, data: Data):
    """Return test images of all classes, on which activations are summarized."""
    batches = data.test.batches(SUMMARY_IMAGES, Shuffling(0), run.preprocessing)
    images, _ = next(iter(batches))
    return images
