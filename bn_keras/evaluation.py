"""Measure a model on examples: (name, value).

Knows predictions and labels; not how either came to be.
"""

import numpy as np


def evaluate(model, split):
    """Top-1 and top-5 accuracy of a classifier.

    Args:
        model: a Keras model from images to class probabilities `(batch, classes)`.
        split: a `bn_keras.data.Split`.

    Returns:
        A dict of `images` (their number), `top1` and `top5` (fractions).

    Raises:
        ValueError: where the model does not take such images or know such labels.

    Reference:
        Ioffe & Szegedy 2015, figure 4 (errors, where these are accuracies).
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "Expected a model of one input and one output, class probabilities. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            "evaluate a model made of those two"
        )
    if len(model.output_shape) != 2:
        raise ValueError(
            "Expected a model whose output is (batch, classes). Received: "
            f"{model.output_shape}; evaluate a classifier"
        )
    expected = tuple(model.input_shape[1:])
    if expected != split.images.shape[1:]:
        raise ValueError(
            f"The model takes images of shape {expected}. Received: images of shape "
            f"{split.images.shape[1:]}; choose the data set that it was trained on"
        )
    probabilities = model.predict(split.images, batch_size=256, verbose=0)
    if split.labels.max() >= probabilities.shape[-1]:
        raise ValueError(
            f"The model knows {probabilities.shape[-1]} classes. Received: label "
            f"{split.labels.max()}; choose the data set that it was trained on"
        )
    own = np.take_along_axis(probabilities, split.labels[:, np.newaxis], axis=-1)
    # Ties and NaN count against the model.
    rank = np.sum(~(probabilities < own), axis=-1) - 1
    return {
        "images": len(split.labels),
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < 5)),
    }
