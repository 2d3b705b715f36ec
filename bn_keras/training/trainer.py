"""Train a model on a data set by a recipe.

Knows Keras' training loop and what a run leaves in its work directory; not the command
line, and not what becomes of the model.
"""

from contextlib import ExitStack, contextmanager
from functools import partial

import keras

from bn_keras.data import Shuffling, reading
from bn_keras.errors import DivergenceError
from bn_keras.population import estimate_population_statistics
from bn_keras.training import checkpoints, distribution, run_record
from bn_keras.training.build_model import build, preprocessing_for, steps_per_epoch
from bn_keras.training.callbacks import DivergenceStop, ProgressBar, Summaries
from bn_keras.training.outputs import Outputs

# Images on which TensorBoard's percentiles are taken.
LOOKED_AT = 32


def train(
    recipe,
    data,
    workdir=None,
    callbacks=(),
    verbose: str | int = "auto",
    *,
    checkpoint_steps=None,
    tensorboard=False,
    distributed=None,
):
    """Train by a recipe, then estimate the population statistics on training examples.

    A run that was killed goes on from its last checkpoint when it is called again, and
    on a CPU ends with bitwise the same weights as one that was not.

    Args:
        recipe: a `bn_keras.training.recipes.Recipe`.
        data: a `bn_keras.data.Data`.
        workdir: an existing folder, or None to write nothing. It receives
            `RECIPE.keras`; `RECIPE.csv`, the learning curve, a line an epoch;
            `RECIPE.json`, the facts of the run; and while the run lasts
            `RECIPE.checkpoints`, at the end of each epoch. Several machines share it.
        callbacks: further Keras callbacks.
        verbose: 0 for silence; anything else shows a progress bar.
        checkpoint_steps: steps to one more checkpoint within an epoch; None: none.
        tensorboard: whether to write `WORKDIR/RECIPE.tensorboard`.
        distributed: from `bn_keras.training.distribution.start`; None for one device.

    Returns:
        `(model, history)`: the trained model, and a dict from `loss`, `accuracy`,
        `val_loss`, `val_accuracy` to a value an epoch; the last two are measured with
        the moving averages on the test examples. In an epoch that was resumed the
        first two are of the rest of it.

    Raises:
        DivergenceError: when the loss becomes NaN or infinite; the last checkpoint
            stays.
        ValueError: where `workdir` holds an unfinished run of other facts, or a
            mini-batch cannot be divided over the devices.

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
    place = distributed or distribution.OneDevice()
    if tensorboard and place.machines > 1:
        raise ValueError(
            "`tensorboard` looks at the model of one machine. Received: "
            f"{place.machines} machines; leave it out"
        )
    if len(data.class_names) < 2:
        raise ValueError(
            "Expected two classes at least. Received: "
            f"{', '.join(data.class_names)}; add pictures of another one"
        )
    if recipe.batch_size > len(data.train):
        raise ValueError(
            f"The batch size must be at most {len(data.train):,}, the number of "
            f"training examples. Received: {recipe.batch_size:,}; choose a smaller one "
            "(--batch-size)"
        )
    if recipe.batch_size % place.replicas:
        raise ValueError(
            f"The batch size must be divisible by the {place.replicas} devices. "
            f"Received: {recipe.batch_size}; choose another (--batch-size)"
        )
    run = run_record.Run(
        recipe,
        data.name,
        len(data.train),
        data.class_names,
        preprocessing_for(recipe, data),
    )
    outputs = None
    if workdir is not None:
        outputs = Outputs(workdir, recipe.name, chief=place.machine == 0)
    callbacks = list(callbacks)
    steps = steps_per_epoch(recipe, data)
    with ExitStack() as stack:
        if outputs is not None:
            stack.callback(outputs.close)
        with ExitStack() as training:
            training.callback(place.close)
            with place.scope():
                model = build(recipe, data)
                start = 0 if outputs is None else outputs.resume(model, run, steps)
            callbacks.append(DivergenceStop(start))
            if outputs is not None:
                callbacks += outputs.callbacks(start, checkpoint_steps, steps)
                if tensorboard and outputs.chief:
                    callbacks.append(Summaries(outputs.tensorboard, _sample(run, data)))
            if verbose and place.machine == 0:
                total = recipe.epochs * steps
                bar = ProgressBar(start, total, steps, recipe.batch_size)
                callbacks.append(bar)
                training.callback(bar.on_train_end)
            training.enter_context(reading(data.train, data.test))
            training.enter_context(_naming_the_mend(recipe, outputs))
            history = _fit(model, run, data, place, start, callbacks)
        if place.replicas > 1:
            weights = model.get_weights()
            model = build(recipe, data)
            model.set_weights(weights)
        if recipe.batch_normalization:
            with reading(data.train):
                _estimate(model, run, data, place)
        if outputs is not None:
            history = outputs.history()
            if outputs.chief:
                outputs.finish(model, run)
    return model, history


def _estimate(model, run, data, place):
    """Population statistics from an epoch that training has not seen in this order."""
    recipe, parts = run.recipe, 1
    if not recipe.synchronized and keras.backend.backend() == "tensorflow":
        # Training normalized each replica's mini-batch for itself.
        parts = place.replicas
    fresh = _batches(
        run,
        data,
        batch_size=recipe.batch_size // parts,
        first_epoch=recipe.epochs,
        epochs=1,
    )
    batches = recipe.population_batches
    if batches is not None:
        batches = min(parts * batches, parts * len(data.train) // recipe.batch_size)
    estimate_population_statistics(model, fresh, "pooled", batches, verbose=0)


@contextmanager
def _naming_the_mend(recipe, outputs):
    """Say what a diverged training has left, and what may help."""
    try:
        yield
    except DivergenceError as error:
        kept = "no checkpoint"
        if outputs is not None and (
            found := checkpoints.checkpoints(outputs.checkpoints)
        ):
            kept = f"the last good checkpoint {found[0]}"
        raise DivergenceError(
            f"{error}. Received: learning_rate={recipe.learning_rate}, {kept}; train "
            "anew in another folder with a lower learning rate"
        ) from None


def _fit(model, run, data, place, start, callbacks):
    """Make the steps from `start` on; returns the history of these."""
    recipe, steps = run.recipe, steps_per_epoch(run.recipe, data)
    history = {}
    while start < recipe.epochs * steps:
        epoch, made = divmod(start, steps)
        # The rest of an epoch that was begun, then all others.
        epochs = epoch + 1 if made else recipe.epochs
        stream = partial(_batches, run, data, first=start, epochs=None)
        found = model.fit(
            place.inputs(stream, recipe.batch_size),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps - made,
            validation_data=place.tests(data.test, run.preprocessing),
            callbacks=callbacks,
            shuffle=False,  # the data set shuffles
            verbose=0,
        )
        for name, values in found.history.items():
            history.setdefault(name, []).extend(values)
        start = epochs * steps
    return history


def _batches(run, data, part=(0, 1), batch_size=None, **position):
    """Training mini-batches from a position of the run's stream on."""
    recipe = run.recipe
    return data.train.batches(
        batch_size or recipe.batch_size,
        Shuffling(recipe.seed, recipe.within_shards),
        run.preprocessing,
        recipe.distortion,
        part=part,
        **position,
    )


def _sample(run, data):
    """Test images to look at the activations on, of all classes."""
    batches = data.test.batches(LOOKED_AT, Shuffling(0), run.preprocessing)
    images, _ = next(iter(batches))
    return images
