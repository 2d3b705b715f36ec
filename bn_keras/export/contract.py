"""The contract of an export: what clients send to it and what they receive."""

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras

from bn_keras.export.naming import input_names, output_names
from bn_keras.images.preprocessing import Preprocessing, is_image_shape


class TensorSpec(NamedTuple):
    """Shape, with None for unknown sizes, and dtype of an input or output."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Contract:
    """What clients send and receive, in the flat order of the model.

    Args:
        structure: The symbolic inputs in the structure that the model takes.
        inputs: The specification of each input, by name.
        outputs: The specification of each output, by name.
        preprocessing: The preprocessing with the model's size and channels, or None if
            the model's input is not images.
        labels: A label for each class, or None if the model does not classify images.
        top_k: Number of classes that the signature `classify` returns.
    """

    structure: Any
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    top_k: int


def make_contract(
    model: keras.Model,
    folded_model: keras.Model,
    preprocessing: Preprocessing | None = None,
    labels: Iterable[str] | str | PathLike[str] | None = None,
    top_k: int = 5,
) -> Contract:
    """Return the contract of a model.

    Args:
        model: The Keras model that is exported.
        folded_model: The Functional model after folding.
        preprocessing: The preprocessing; None for the default.
        labels: Labels of the classes, or the path of a text file with one label per
            line; None for the numbers of the classes.
        top_k: Number of classes that `classify` returns, if the model has that many.

    Raises:
        ValueError: If an input is sparse, the number of labels is not the number of
            classes, or there is preprocessing but no image input.
    """
    if type(top_k) is not int or top_k < 1:
        raise ValueError(
            f"`top_k` must be an integer of at least 1. Received: top_k={top_k!r}"
        )
    # Outputs are not checked: Keras calls the result of `x * 2` sparse even if `x` is
    # dense.
    for tensor in folded_model.inputs:
        _refuse_sparse(tensor)
    operations = getattr(model, "operations", None) or model.layers
    inputs = _make_specs(input_names(folded_model), folded_model.inputs)
    outputs = _make_specs(output_names(folded_model, operations), folded_model.outputs)
    first, *others = inputs.values()
    takes_images = not others and is_image_shape(first.shape) and "float" in first.dtype
    if takes_images:
        preprocessing = (preprocessing or Preprocessing()).resolve(first.shape)
    elif preprocessing is not None:
        raise ValueError(
            "`preprocessing` must be None unless the model's only input is float "
            "images (batch, height, width, 1 or 3). Received: a model with the inputs "
            f"{ {name: spec.shape for name, spec in inputs.items()} }"
        )
    class_count = _count_classes(list(outputs.values()))
    # Encoded images, and so `classify`, need to know the size to resize to.
    if preprocessing is None or preprocessing.size is None:
        class_count = None
    if labels is not None:
        labels = _read_labels(labels)
        if len(labels) != class_count:
            raise ValueError(
                "`labels` must have one label for each class of a model of images with "
                "a single output (batch, classes). Received: "
                f"{len(labels)} labels for {class_count or 'no'} classes"
            )
    elif class_count is not None:
        labels = tuple(map(str, range(class_count)))
    top_k = min(top_k, class_count or top_k)
    return Contract(folded_model.input, inputs, outputs, preprocessing, labels, top_k)


def _refuse_sparse(tensor: keras.KerasTensor) -> None:
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        raise ValueError(
            "Every input must be dense. Received: the sparse or ragged input "
            f"{tensor.name!r}. Convert it before the model"
        )


def _make_specs(
    names: list[str], tensors: list[keras.KerasTensor]
) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(tuple(tensor.shape), tensor.dtype)
        for name, tensor in zip(names, tensors, strict=True)
    }


def _count_classes(outputs: list[TensorSpec]) -> int | None:
    if len(outputs) == 1 and len(outputs[0].shape) == 2 and "float" in outputs[0].dtype:
        count = outputs[0].shape[1]
        return count if count is not None and count > 1 else None
    return None


def _read_labels(labels: Iterable[str] | str | PathLike[str]) -> tuple[str, ...]:
    if isinstance(labels, str | PathLike):
        try:
            return tuple(Path(labels).read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError:
            raise ValueError(
                "The file of labels must be UTF-8 text with one label per line. "
                f"Received: {labels}"
            ) from None
    labels = tuple(labels)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError(
            "`labels` must be strings, or the path of a file. Received: "
            f"{labels[:3]!r}..."
        )
    return labels
