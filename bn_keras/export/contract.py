"""The contract of an export: what clients send to it and what they receive."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from bn_keras.export.input_values import input_values, scaling_of_pixels
from bn_keras.export.naming import input_names, output_names
from bn_keras.export.options import ExportOptions
from bn_keras.images.preprocessing import Preprocessing, is_image_shape


class TensorSpec(NamedTuple):
    """Shape, with None for unknown sizes, and dtype of an input or output."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Contract:
    """What clients send and receive, in the flat order of the model.

    Args:
        structure: The structure of inputs that the model takes, with a number in place
            of each input.
        inputs: The specification of each input, by name.
        outputs: The specification of each output, by name.
        values: The values that an input can have, by its name, where they are known.
        preprocessing: The preprocessing with the model's size and channels, or None if
            the model's input is not images.
        labels: A label for each class, or None if the model does not classify images.
        top_k: Number of classes that the signature `classify` returns.
    """

    structure: Any
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    values: dict[str, Sequence[Any]]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    top_k: int

    @property
    def batch_size(self) -> int | None:
        """The number of examples that the model is built for, or None for any."""
        sizes = [spec.shape[0] for spec in self.inputs.values() if spec.shape]
        return next((size for size in sizes if size is not None), None)


def make_contract(
    model: keras.Model,
    folded_model: keras.Model,
    options: ExportOptions | None = None,
) -> Contract:
    """Return the contract of a model.

    Args:
        model: The Keras model that is exported.
        folded_model: The Functional model after folding.
        options: The preprocessing, the labels and the number of classes to return;
            None for the defaults.

    Raises:
        ValueError: If an input is sparse, the number of labels is not the number of
            classes, there is preprocessing but no image input, or it is unknown how
            pixels become the model's input.
    """
    options = options or ExportOptions()
    preprocessing, labels = options.preprocessing, options.labels
    # Outputs are not checked: Keras calls the result of `x * 2` sparse even if `x` is
    # dense.
    for tensor in folded_model.inputs:
        _refuse_sparse(tensor)
    operations = getattr(model, "operations", None) or model.layers
    inputs = _make_specs(input_names(folded_model), folded_model.inputs)
    outputs = _make_specs(output_names(folded_model, operations), folded_model.outputs)
    if takes_images(folded_model):
        (first,) = inputs.values()
        preprocessing = _choose_preprocessing(model, preprocessing)
        preprocessing = preprocessing.resolve(first.shape)
    elif preprocessing is not None:
        raise ValueError(
            "`preprocessing` must be None unless the model's only input is float "
            "images (batch, height, width, 1 or 3). Received: a model with the inputs "
            f"{ {name: spec.shape for name, spec in inputs.items()} }. Leave it out"
        )
    class_count = _count_classes(list(outputs.values()))
    # Encoded images, and so `classify`, need to know the size to resize to.
    if preprocessing is None or preprocessing.size is None:
        class_count = None
    if labels is not None:
        labels = _read_labels(labels)
        if len(labels) != class_count:
            raise ValueError(
                "`labels` must have one label for each class of a model of images of a "
                f"known size with a single output (batch, classes). Received: "
                f"{len(labels)} labels for "
                + (
                    f"{class_count} classes"
                    if class_count
                    else "another model. Leave `labels` out"
                )
            )
    elif class_count is not None:
        labels = tuple(map(str, range(class_count)))
    top_k = min(options.top_k, class_count or options.top_k)
    values = dict(zip(inputs, input_values(folded_model), strict=True))
    # Not the symbolic inputs, which would keep the folded model in memory.
    numbers = list(range(len(inputs)))
    structure = tree.pack_sequence_as(folded_model.input, numbers)
    return Contract(
        structure,
        inputs,
        outputs,
        {name: x for name, x in values.items() if x is not None},
        preprocessing,
        labels,
        top_k,
    )


def takes_images(model: keras.Model) -> bool:
    """Return whether a model's only input is float images, of 1 or 3 channels."""
    first, *others = getattr(model, "inputs", None) or [None]
    return (
        first is not None
        and not others
        and is_image_shape(first.shape)
        and "float" in first.dtype
    )


def _choose_preprocessing(
    model: keras.Model, preprocessing: Preprocessing | None
) -> Preprocessing:
    """Return the preprocessing for a model of images, which may scale them itself."""
    scaling = scaling_of_pixels(model)
    if preprocessing is None:
        if scaling is None:
            return Preprocessing()
        if scaling.takes_pixels:
            return Preprocessing(scale=1.0)
        raise ValueError(
            "`preprocessing` must be passed for a model that scales its input itself, "
            "if that does not tell whether it takes values from 0 to 255 or from 0 to "
            f"1. Received: a model that begins with {scaling.layer!r}. Pass "
            "`Preprocessing(scale=1.0)` for 0 to 255, `Preprocessing()` for 0 to 1"
        )
    if scaling is not None and scaling.takes_pixels:
        largest = np.max(
            255 * np.abs(preprocessing.scale) + np.abs(preprocessing.offset)
        )
        if largest <= 4:
            warnings.warn(
                f"Pixels are scaled twice: by `preprocessing`, to {largest:g} at most, "
                f"and by {scaling.layer!r} in the model, which takes values from 0 to "
                "255. Pass `Preprocessing(scale=1.0)`.",
                stacklevel=2,
            )
    return preprocessing


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
            # Some editors begin a file with a byte-order mark.
            text = Path(labels).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(
                "The file of labels must be UTF-8 text with one label per line. "
                f"Received: {labels}, which is not UTF-8. Save it in UTF-8"
            ) from None
        # Not `splitlines`, which also splits at characters such as U+2028.
        return tuple(line.strip() for line in text.rstrip().split("\n"))
    names = tuple(labels) if isinstance(labels, Iterable) else (labels,)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            "`labels` must be strings, or the path of a file. Received: "
            f"{names[:3]!r}..."
        )
    return names
