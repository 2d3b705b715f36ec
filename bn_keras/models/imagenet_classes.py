"""Inputs and outputs of networks that were trained on ImageNet."""

from typing import Any

import keras
import numpy as np

from bn_keras.models.tf_slim_checkpoint import BACKGROUND, CLASSES


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Return pixels from 0 to 255 as `BNInception(weights="imagenet")` takes them.

    Args:
        x: Images in RGB, an array or tensor. An array of floats is changed in place, as
            by the functions of this name in `keras.applications`.
        data_format: Has no effect: every channel is scaled alike.

    Returns:
        `x / 127.5 - 1`, from -1 to 1.

    Example:
    ```python
    import numpy as np
    from bn_keras.models import preprocess_input

    assert preprocess_input(np.array([0.0, 255.0])).tolist() == [-1.0, 1.0]
    ```
    """
    return keras.applications.imagenet_utils.preprocess_input(
        x, data_format=data_format, mode="tf"
    )


def decode_predictions(predictions: Any, top: int = 5) -> list[list[tuple]]:
    """Return the names of the most probable of ImageNet's classes.

    The names are those of `keras.applications`, which downloads them once.

    Args:
        predictions: An array or tensor `(batch, 1000)`, or `(batch, 1001)` with the
            background first.
        top: The number of classes for each image.

    Returns:
        For each image a list of `(wnid, name, probability)`, the most probable first.

    Raises:
        ValueError: If the predictions have another shape.

    Example:
    ```python
    import numpy as np
    from bn_keras.models import decode_predictions

    try:
        decode_predictions(np.zeros((1, 10)))
    except ValueError as error:
        assert "(batch, 1000) or (batch, 1001)" in str(error)
    ```
    """
    predictions = np.asarray(keras.ops.convert_to_numpy(predictions))
    classes = (CLASSES, CLASSES + BACKGROUND)
    if predictions.ndim != 2 or predictions.shape[1] not in classes:
        raise ValueError(
            "`predictions` must have shape (batch, 1000) or (batch, 1001). Received: "
            f"{predictions.shape}. Use a model of ImageNet's classes."
        )
    return keras.applications.imagenet_utils.decode_predictions(
        predictions[:, -CLASSES:], top
    )
