"""What clients of an export send and get.

Knows a model's names, shapes and types, and the caller's labels and preprocessing; no
TensorFlow and no files of an export.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from bn_keras.export.naming import input_names, output_names
from bn_keras.images.preprocessing import Preprocessing, is_image_shape


class Spec(NamedTuple):
    """Shape, None for unknown sizes, and type of an input or output."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Contract:
    """What clients send and get, in the flat order of the model.

    Args:
        structure: the symbolic inputs, as the model takes them.
        inputs: dict from name to `Spec`.
        outputs: dict from name to `Spec`.
        preprocessing: a fitted `Preprocessing`, or None if the model takes no images.
        labels: one string for each class, or None if the model is no classifier of
            pictures.
        top_k: classes that `classify` answers.
    """

    structure: Any
    inputs: dict[str, Spec]
    outputs: dict[str, Spec]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    top_k: int


def contract_of(model, folded, preprocessing=None, labels=None, top_k=5):
    """The contract of a model.

    Args:
        model: the Keras model as it was given.
        folded: the Functional model that it was folded into.
        preprocessing: a `Preprocessing`, or None for the default.
        labels: a sequence of strings, or a text file's path, one label a line; None
            for the numbers of the classes.
        top_k: classes that `classify` answers, if the model has as many.

    Returns:
        A `Contract`.

    Raises:
        ValueError: for sparse inputs, labels that are not one a class, or a
            preprocessing that is not the model's.
    """
    if type(top_k) is not int or top_k < 1:
        raise ValueError(f"`top_k` must be 1 or more. Received: top_k={top_k!r}")
    # Not the outputs: Keras calls x * 2 sparse, whatever x is.
    for tensor in folded.inputs:
        _refuse_sparse(tensor)
    operations = getattr(model, "operations", None) or model.layers
    names = input_names(folded), output_names(folded, operations)
    inputs, outputs = (
        dict(zip(keys, map(_spec, tensors), strict=True))
        for keys, tensors in zip(names, (folded.inputs, folded.outputs), strict=True)
    )
    first, *others = inputs.values()
    images = not others and is_image_shape(first.shape) and "float" in first.dtype
    if preprocessing is not None or images:
        shape = first.shape if images else ()
        preprocessing = (preprocessing or Preprocessing()).resolve(shape)
    classes = _classes(list(outputs.values()))
    if preprocessing is None or preprocessing.size is None:
        classes = None
    if labels is not None:
        labels = _read(labels)
        if len(labels) != classes:
            raise ValueError(
                "`labels` must be one for each class of a model of images with one "
                f"output (batch, classes), here {classes or 'no classes'}. Received: "
                f"{len(labels)} labels"
            )
    elif classes is not None:
        labels = tuple(map(str, range(classes)))
    top_k = min(top_k, classes or top_k)
    return Contract(folded.input, inputs, outputs, preprocessing, labels, top_k)


def _refuse_sparse(tensor):
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        raise ValueError(
            "Every input must be dense: convert it in front of the model. "
            f"Received: a sparse or ragged tensor {tensor.name!r}"
        )


def _spec(tensor):
    return Spec(tuple(tensor.shape), tensor.dtype)


def _classes(outputs):
    if len(outputs) == 1 and len(outputs[0].shape) == 2 and "float" in outputs[0].dtype:
        classes = outputs[0].shape[1]
        return classes if classes is not None and classes > 1 else None
    return None


def _read(labels):
    if isinstance(labels, str | PathLike):
        try:
            return tuple(Path(labels).read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError:
            raise ValueError(
                f"Expected a text file of one label a line. Received: {labels}"
            ) from None
    labels = tuple(labels)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"`labels` must be strings, or a file's path. Received: {labels[:3]!r}..."
        )
    return labels
