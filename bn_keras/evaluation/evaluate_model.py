"""Ask models for the classes of pictures and count the right answers.

Knows Keras models and splits; not how crops are cut.
"""

import numpy as np

from bn_keras import data
from bn_keras.evaluation.crop_batches import batches_of_crops
from bn_keras.evaluation.scores import Tally
from bn_keras.images.crops import CROPS
from bn_keras.images.preprocessing import Preprocessing

# How far from 1 probabilities may sum: in bfloat16 each of them is rounded by 0.4 %.
TOLERANCE = 0.01


def evaluate(
    models, split, crops=1, preprocessing=None, batch_size=128, on_batch_end=None
):
    """Top-1 and top-5 accuracy of a classifier, with much of what lies behind them.

    Where there are several crops or several models, the probabilities of a picture are
    the arithmetic mean over the crops, then over the models.

    Args:
        models: a Keras model from images to class probabilities `(batch, classes)`, or
            a list of such models, an ensemble.
        split: a `bn_keras.data.Split`.
        crops: of each picture, 1, 10 or 144; `bn_keras.images.crops` says which.
        preprocessing: a `Preprocessing`; None for pixels in [0, 1], and for pictures
            of the model's size as they are. `crop_fraction` is of the single crop.
        batch_size: crops, not pictures, that a model takes at a time.
        on_batch_end: called with the number of pictures done so far after each batch.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: where a model does not take such images or know such labels, where
            models cannot be averaged, or a picture cannot be read.

    Example:
    ```python
    import keras
    from bn_keras import data
    from bn_keras.evaluation import evaluate
    from bn_keras.models import MLP

    model = MLP(input_shape=(8, 8, 1), classes=10)
    found = evaluate(model, data.digits().test)
    assert found.images == 360
    assert found.top1 <= found.top5
    ```

    Reference:
        Ioffe & Szegedy 2015, figure 4 (errors, where these are accuracies) and section
        4.2.3 (ensemble).
    """
    models = _models(models)
    tally = Tally(models[0].output_shape[-1])
    for probabilities, labels in predict_probabilities(
        models, split, crops, preprocessing, batch_size
    ):
        tally.add(probabilities, labels)
        if on_batch_end is not None:
            on_batch_end(tally.images)
    return tally.total()


def predict_probabilities(models, split, crops=1, preprocessing=None, batch_size=128):
    """The class probabilities that `evaluate` scores.

    Args:
        models: as in `evaluate`.
        split: likewise.
        crops: likewise.
        preprocessing: likewise.
        batch_size: likewise.

    Returns:
        An iterator of `(probabilities, labels)` of some pictures each, in the order of
        the split: float64 `(pictures, classes)` and int64 `(pictures,)`.

    Raises:
        ValueError: as `evaluate`.
    """
    models = _models(models)
    if crops not in CROPS:
        raise ValueError(
            f"`crops` must be one of {', '.join(map(str, CROPS))}. "
            f"Received: crops={crops!r}"
        )
    if not len(split):
        raise ValueError("Expected one picture at least. Received: none")
    fitted = _fit(models[0], split, crops, preprocessing)
    return _predict(models, split, fitted, crops, batch_size)


def _predict(models, split, preprocessing, crops, batch_size):
    averages = crops > 1 or len(models) > 1
    with data.reading(split):
        batches = batches_of_crops(split, preprocessing, crops, batch_size)
        yield from _answers(models, batches, crops, averages)


def _models(models):
    models = list(models) if isinstance(models, (list, tuple)) else [models]
    _check_models(models)
    return models


def _check_models(models):
    if not models:
        raise ValueError("Expected one model at least. Received: none")
    for model in models:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(
                "Expected a model of one input and one output, class probabilities. "
                f"Received: {len(model.inputs)} inputs and {len(model.outputs)} "
                "outputs; evaluate a model made of those two"
            )
        if len(model.output_shape) != 2:
            raise ValueError(
                "Expected a model whose output is (batch, classes). Received: "
                f"{model.output_shape}; evaluate a classifier"
            )
    for number, model in enumerate(models, 1):
        for what in ("input_shape", "output_shape"):
            first, other = (getattr(one, what)[1:] for one in (models[0], model))
            if first != other:
                raise ValueError(
                    "The models of an ensemble must have the same input and classes. "
                    f"Received: {what} {other} of model {number} ({model.name}), "
                    f"{first} of model 1 ({models[0].name})"
                )


def _fit(model, split, crops, preprocessing):
    """The preprocessing for the model's input, if these pictures can become that."""
    expected, given = tuple(model.input_shape[1:]), tuple(split.shape)
    wanted = expected
    if len(expected) == 3 and (preprocessing is not None or crops > 1 or None in given):
        wanted = (None, None, expected[2])
    if len(wanted) != 3 or any(
        side not in (None, has) for side, has in zip(wanted, given, strict=True)
    ):
        raise ValueError(
            f"The model takes images of shape {expected}. Received: images of shape "
            f"{given}; choose the data set that it was trained on"
        )
    fitted = (preprocessing or Preprocessing()).resolve(model.input_shape)
    if crops > 1 and (fitted.size is None or len(set(fitted.size)) > 1):
        raise ValueError(
            f"{crops} crops are squares: the model's input, or the size of its "
            f"`preprocessing`, must be one. Received: {fitted.size}; take crops=1"
        )
    return fitted


def _answers(models, batches, crops, averages):
    """Probabilities and labels of pictures, as soon as all of their crops are known."""
    classes = models[0].output_shape[-1]
    pending, whose, full = np.empty((0, classes)), np.empty(0, np.int64), 0
    for images, labels in batches.as_numpy_iterator():
        if not 0 <= labels.min() <= labels.max() < classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(
                f"The model knows {classes} classes. Received: label {wrong}; choose "
                "the data set that it was trained on"
            )
        count, full = len(images), max(full, len(images))
        if count < full:
            # A last batch of another size would be compiled for itself.
            rest = np.zeros((full - count, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, rest])
        answers = _mean(models, images, count, averages)
        pending = np.concatenate([pending, answers])
        whose = np.concatenate([whose, labels])
        ready = len(pending) // crops * crops
        yield (
            pending[:ready].reshape(-1, crops, classes).mean(1),
            whose[:ready:crops],
        )
        pending, whose = pending[ready:], whose[ready:]


def _mean(models, images, count, averages):
    """Mean of the models' answers to the first images, float64 `(count, classes)`."""
    total = np.zeros(())
    for number, model in enumerate(models, 1):
        answers = np.asarray(model.predict_on_batch(images), np.float64)[:count]
        if averages and (
            np.any(answers < -TOLERANCE) or np.any(abs(answers.sum(-1) - 1) > TOLERANCE)
        ):
            raise ValueError(
                "Averages are of probabilities: of each picture they must sum to 1. "
                f"Received: outputs from {answers.min():.3g} to {answers.max():.3g} "
                f"that sum to {answers.sum(-1).min():.3g} and more, of model {number} "
                f"({model.name}); end it with a softmax"
            )
        total = total + answers
    return total / len(models)
