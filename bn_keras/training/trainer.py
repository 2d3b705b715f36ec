"""Train a model on a data set by a recipe."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from bn_keras.data import Data, report_bad_files
from bn_keras.errors import DivergenceError
from bn_keras.population import estimate_population_statistics
from bn_keras.training import checkpoints
from bn_keras.training.build_model import NO_WEIGHTS, build
from bn_keras.training.callbacks import DivergenceStop, Summaries
from bn_keras.training.distribution import OneDevice
from bn_keras.training.mini_batches import sample_images, training_batches
from bn_keras.training.outputs import Outputs
from bn_keras.training.preparation import (
    check_files,
    describe_run,
    divide,
    selects,
    warn_of_small_batches,
)
from bn_keras.training.progress import ProgressBar
from bn_keras.training.recipes import Recipe
from bn_keras.training.run_record import Run
from bn_keras.training.selection import Selection
from bn_keras.training.step_logs import StepCallbacks


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
    restart: bool = False,
    log_seconds: float = 30.0,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train by a recipe, then estimate the population statistics on training examples.

    A run that was killed resumes from its last checkpoint when this function is called
    again. On a CPU it ends with bitwise the same weights as a run that was not killed.
    A run that is finished is not trained again: its model is loaded.

    Training files, and validation files (without them, test files), are decoded once
    before the first step. More than 20,000 training files are decoded during the
    first epoch instead; more than 20,000 validation or test files are not checked. The
    result is kept for later runs.

    Args:
        recipe: A `Recipe`.
        data: The `Data` to train and to validate on.
        workdir: An existing folder, or `None` to write nothing. It receives
            `RECIPE.keras`, the model; `RECIPE.csv`, the learning curve, a line for each
            epoch; `RECIPE.json`, the record of the run; and, until the run is done,
            `RECIPE.checkpoints`, written after each epoch. Several machines share it.
        callbacks: Further Keras callbacks.
        verbose: 0 for no output; any other value shows the progress on standard error.
        checkpoint_steps: The number of steps between two checkpoints within an epoch.
            `None` writes them after each epoch only.
        tensorboard: Whether to write `WORKDIR/RECIPE.tensorboard`.
        distributed: What `bn_keras.training.distribution.start` returned. `None` is one
            device.
        restart: Whether to train from the beginning where `workdir` holds the run
            already. Its model stays until the new one is saved.
        log_seconds: The time between two lines of progress where there is neither a
            terminal nor a notebook.

    Returns:
        `(model, history)`: the trained model, and a dict from `loss`, `accuracy`,
        `val_loss` and `val_accuracy` to their value by epoch. The last two are measured
        on the validation examples, or the test examples if there are none, with the
        moving averages. For an epoch that was resumed, the first two cover the steps
        after the checkpoint.

    Raises:
        DivergenceError: If the loss becomes NaN or infinite. The last checkpoint is
            kept.
        ValueError: If `workdir` holds a run that differs, a mini-batch cannot be
            divided over the devices, or an image cannot be read.

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
    # The files that are there: those of the run may be others.
    fingerprint = data.train.fingerprint()
    outputs = None
    if workdir is not None:
        outputs = Outputs(workdir, recipe.name, chief=devices.machine == 0)
        if restart and outputs.chief:
            outputs.discard()
        data = outputs.follow(data)
    run = describe_run(recipe, data, devices, tensorboard)
    if outputs is not None and not restart and outputs.is_finished(run):
        finished: Any = keras.models.load_model(outputs.model)
        return finished, outputs.history()
    callbacks = list(callbacks)
    steps = recipe.steps_per_epoch(run.examples)
    divided = divide(recipe, data)
    with ExitStack() as stack:
        if outputs is not None:
            stack.callback(outputs.close)
        checks = check_files(data)
        with ExitStack() as training:
            # After the training even if it fails: the caller's next model must not be
            # distributed.
            training.callback(devices.close)
            with devices.scope():
                resumes = outputs is not None and outputs.is_unfinished()
                initial = _without_initial(recipe) if resumes else recipe
                model, start = build(initial, divided), 0
                if outputs is not None:
                    start = outputs.resume(model, run, data)
            data = divided
            for check in checks:
                training.callback(check.stop)
            callbacks += [DivergenceStop(start), *checks]
            selection = None
            if selects(recipe):
                folder = None if outputs is None else outputs.checkpoints
                history = {} if outputs is None else outputs.history()
                selection = Selection(
                    history, folder, recipe.keep_best, recipe.patience
                )
            if outputs is not None:
                curve, *checkpoint = outputs.callbacks(start, checkpoint_steps, steps)
                # The best weights before the checkpoint, as the row of the curve.
                callbacks += [curve, *([selection] if selection else []), *checkpoint]
                if tensorboard and outputs.chief:
                    callbacks.append(
                        Summaries(outputs.tensorboard, sample_images(run, data))
                    )
            elif selection:
                callbacks.append(selection)
            if verbose and devices.machine == 0:
                total = recipe.epochs * steps
                name = "test" if data.validation is None else "validation"
                bar = ProgressBar(
                    start, total, steps, recipe.batch_size, None, log_seconds, name
                )
                callbacks.append(bar)
                training.callback(bar.stop)
            warn_of_small_batches(recipe, devices)
            splits = (data.train, data.validation or data.test)
            training.enter_context(report_bad_files(*splits))
            training.enter_context(_explain_divergence(recipe, outputs))
            history = {}
            if selection is None or not selection.is_exhausted():
                history = _fit(model, run, data, devices, start, callbacks)
            if selection is not None:
                selection.restore(model)
        if devices.replicas > 1:
            # A model on one device: a distributed one can be used only under its
            # strategy.
            weights = model.get_weights()
            model = build(_without_initial(recipe), data)
            model.set_weights(weights)
        if recipe.batch_normalization and not recipe.freeze_statistics:
            with report_bad_files(data.train):
                _estimate_population(model, run, data, devices)
        if outputs is not None:
            # That of all epochs, also of those before this run was resumed.
            history = outputs.history()
            if outputs.chief:
                outputs.finish(model, run._replace(fingerprint=fingerprint))
    return model, history


def _without_initial(recipe: Recipe) -> Recipe:
    """Return the recipe for a model that gets its weights from elsewhere."""
    if recipe.initial_weights is None:
        return recipe
    # The layers keep the statistics that they are given.
    return replace(recipe, initial_weights=NO_WEIGHTS)


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
    batches = training_batches(
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
            "again in another folder with a lower learning rate.",
            error.step,
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
    recipe, steps = run.recipe, run.recipe.steps_per_epoch(run.examples)
    history = {}
    while start < recipe.epochs * steps:
        # Keras' epochs have a fixed number of steps. So the rest of an epoch that was
        # interrupted is one call of `fit`, and all later epochs are another.
        epoch, steps_made = divmod(start, steps)
        epochs = epoch + 1 if steps_made else recipe.epochs
        # One endless stream for all epochs: its mini-batches are determined by their
        # number, not by where `fit` begins.
        make_part = partial(training_batches, run, data, first_batch=start, epochs=None)
        result = model.fit(
            devices.training_input(make_part, recipe.batch_size),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps - steps_made,
            validation_data=devices.validation_input(
                data.validation or data.test, run.preprocessing
            ),
            callbacks=StepCallbacks(
                callbacks,
                add_history=True,
                model=model,
                epochs=epochs,
                steps=steps - steps_made,
                verbose=0,
            ),
            shuffle=False,  # the stream is shuffled
            verbose=0,
        )
        for name, values in result.history.items():
            history.setdefault(name, []).extend(values)
        if model.stop_training:
            break
        start = epochs * steps
    return history
