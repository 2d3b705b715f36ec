"""Measure how often classifiers are right about the images of a split."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from bn_keras.data import Split, report_bad_files
from bn_keras.evaluation.crop_batches import crop_batches
from bn_keras.evaluation.scores import Evaluation, Tally
from bn_keras.images.crops import CROPS
from bn_keras.images.preprocessing import Preprocessing

# How far from 1 probabilities may sum: in bfloat16 each of them is rounded by 0.4%.
TOLERANCE = 0.01


def evaluate(
    models: keras.Model | Sequence[keras.Model],
    split: Split,
    crops: int = 1,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 128,
    on_batch_end: Callable[[int], object] | None = None,
    on_predictions: Callable[[np.ndarray, np.ndarray], object] | None = None,
) -> Evaluation:
    """Return the top-1 and top-5 accuracy of a classifier, and its confusion matrix.

    With several crops or several models, the probabilities of an image are the
    arithmetic mean over its crops, then over the models.

    Args:
        models: A Keras model from images to class probabilities `(batch, classes)`, or
            a list of such models, an ensemble.
        split: The `Split` to evaluate on.
        crops: The number of crops of each image: 1, 10 or 144. See
            `bn_keras.images.crops`.
        preprocessing: A `Preprocessing`. `None` scales pixels to [0, 1] and keeps
            images of the model's size as they are. Its `crop_fraction` applies to
            single crops only.
        batch_size: The number of crops, not images, that a model takes at a time.
        on_batch_end: Called after each batch with the number of images done so far.
        on_predictions: Called with the probabilities `(images, classes)` and the
            labels `(images,)` of each batch, in the order of the split.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If a model does not take such images or does not have such labels,
            if models cannot be averaged, or if an image cannot be read.

    Example:
    ```python
    import keras
    from bn_keras import data
    from bn_keras.evaluation import evaluate
    from bn_keras.models import MLP

    model = MLP(input_shape=(8, 8, 1), classes=10)
    evaluation = evaluate(model, data.digits().test)
    assert evaluation.images == 360
    assert evaluation.top1 <= evaluation.top5
    ```

    Reference:
        Ioffe & Szegedy 2015, figure 4 (errors, where these are accuracies) and section
        4.2.3 (ensemble).
    """
    models = _as_list(models)
    tally = Tally(models[0].output_shape[-1])
    for probabilities, labels in predict_probabilities(
        models, split, crops, preprocessing, batch_size
    ):
        tally.add(probabilities, labels)
        if on_predictions is not None:
            on_predictions(probabilities, labels)
        if on_batch_end is not None:
            on_batch_end(tally.images)
    return tally.total()


def predict_probabilities(
    models: keras.Model | Sequence[keras.Model],
    split: Split,
    crops: int = 1,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 128,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the class probabilities that `evaluate` scores.

    Args:
        models: As in `evaluate`.
        split: As in `evaluate`.
        crops: As in `evaluate`.
        preprocessing: As in `evaluate`.
        batch_size: As in `evaluate`.

    Returns:
        An iterator of `(probabilities, labels)`, each for some images in the order of
        the split: float64 `(images, classes)` and int64 `(images,)`.

    Raises:
        ValueError: As `evaluate`.
    """
    models = _as_list(models)
    if crops not in CROPS:
        raise ValueError(
            f"`crops` must be one of {', '.join(map(str, CROPS))}. "
            f"Received: crops={crops!r}"
        )
    if not len(split):
        raise ValueError("`split` must have at least one image. Received: 0 images")
    preprocessing = _resolve_preprocessing(models[0], split, crops, preprocessing)
    # The checks above are made now; a generator would delay them to its first use.
    return _predict(models, split, preprocessing, crops, batch_size)


def _predict(models, split, preprocessing, crops, batch_size):
    averages = crops > 1 or len(models) > 1
    with report_bad_files(split):
        batches = crop_batches(split, preprocessing, crops, batch_size)
        yield from _average_crops(models, batches, crops, averages)


def _as_list(models):
    models = list(models) if isinstance(models, (list, tuple)) else [models]
    _check_models(models)
    return models


def _check_models(models):
    if not models:
        raise ValueError("`models` must have at least one model. Received: models=[]")
    for model in models:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(
                "A model must have one input, and class probabilities as its only "
                f"output. Received: {len(model.inputs)} inputs and "
                f"{len(model.outputs)} outputs. Make a model of these two."
            )
        if len(model.output_shape) != 2:
            raise ValueError(
                "A model must have an output of shape (batch, classes). Received: "
                f"{model.output_shape}. Evaluate a classifier."
            )
    for number, model in enumerate(models, 1):
        for name in ("input_shape", "output_shape"):
            first_shape = getattr(models[0], name)[1:]
            shape = getattr(model, name)[1:]
            if first_shape != shape:
                raise ValueError(
                    "The models of an ensemble must have the same input and classes. "
                    f"Received: {name} {shape} of model {number} ({model.name}), "
                    f"{first_shape} of model 1 ({models[0].name})"
                )


def _resolve_preprocessing(model, split, crops, preprocessing):
    """Return the preprocessing for the model's input, if it accepts these images."""
    model_shape, split_shape = tuple(model.input_shape[1:]), tuple(split.shape)
    accepted = model_shape
    if len(model_shape) == 3 and (
        preprocessing is not None or crops > 1 or None in split_shape
    ):
        # The images are resized, so only their channels must agree.
        accepted = (None, None, model_shape[2])
    if len(accepted) != 3 or any(
        side not in (None, split_side)
        for side, split_side in zip(accepted, split_shape, strict=True)
    ):
        raise ValueError(
            f"`split` must have images of the model's input shape {model_shape}. "
            f"Received: images of shape {split_shape}. Choose the data set that the "
            "model was trained on."
        )
    preprocessing = (preprocessing or Preprocessing()).resolve(model.input_shape)
    size = preprocessing.size
    if crops > 1 and (size is None or len(set(size)) > 1):
        raise ValueError(
            f"The model's input, or the size of `preprocessing`, must be a square for "
            f"{crops} crops. Received: {size}. Set crops=1."
        )
    return preprocessing


def _average_crops(models, batches, crops, averages):
    """Yield probabilities and labels of images as soon as all their crops are done."""
    classes = models[0].output_shape[-1]
    # Crops of an image whose other crops are in the next batch.
    pending, pending_labels = np.empty((0, classes)), np.empty(0, np.int64)
    full = 0
    for images, labels in batches.as_numpy_iterator():
        if not 0 <= labels.min() <= labels.max() < classes:
            label = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(
                f"Labels must be from 0 to {classes - 1} for a model of {classes} "
                f"classes. Received: label {label}. Choose the data set that it was "
                "trained on."
            )
        count, full = len(images), max(full, len(images))
        if count < full:
            # Keras would compile the model once more for a smaller last batch.
            padding = np.zeros((full - count, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        probabilities = _average_models(models, images, count, averages)
        pending = np.concatenate([pending, probabilities])
        pending_labels = np.concatenate([pending_labels, labels])
        complete = len(pending) // crops * crops
        yield (
            pending[:complete].reshape(-1, crops, classes).mean(1),
            pending_labels[:complete:crops],
        )
        pending, pending_labels = pending[complete:], pending_labels[complete:]


def _average_models(models, images, count, averages):
    """Return the mean of the models' outputs, float64 `(count, classes)`."""
    total = np.zeros(())
    for number, model in enumerate(models, 1):
        outputs = np.asarray(model.predict_on_batch(images), np.float64)[:count]
        # Logits may be ranked, but their mean is not that of the probabilities.
        if averages and (
            np.any(outputs < -TOLERANCE) or np.any(abs(outputs.sum(-1) - 1) > TOLERANCE)
        ):
            raise ValueError(
                "Outputs must be probabilities that sum to 1, as they are averaged. "
                f"Received: outputs from {outputs.min():.3g} to {outputs.max():.3g} "
                f"that sum to {outputs.sum(-1).min():.3g} and more, of model {number} "
                f"({model.name}). End the model with a softmax."
            )
        total = total + outputs
    return total / len(models)
