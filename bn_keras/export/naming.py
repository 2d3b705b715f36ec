"""Names of inputs and outputs that every TensorFlow Serving client can use."""

import keyword
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import tree


def input_names(model: keras.Model) -> list[str]:
    """Return a legal name for each input of a Functional model, in flat order."""
    names = [
        # Keras numbers tensors without a name for the whole process.
        "input_layer" if re.fullmatch(r"keras_tensor(_\d+)?", x.name) else x.name
        for x in model.inputs
    ]
    return legal_names(_use_keys(model.input, names))


def output_names(
    model: keras.Model, operations: Iterable[keras.Operation]
) -> list[str]:
    """Return a legal name for each output of a Functional model, in flat order.

    An automatic name such as `dense_7` loses its number, which depends on the layers
    that the process has created before.

    Args:
        model: The Functional model after folding.
        operations: The operations of the original model, including its layers.
    """
    class_names = {x.name: type(x).__name__.lower() for x in operations}
    names = []
    for name in model.output_names:
        stem = re.sub(r"_\d+$", "", name)
        is_automatic = stem.replace("_", "") == class_names.get(name)
        names.append(stem if is_automatic else name)
    return legal_names(_use_keys(model.output, names))


def legal_names(names: Sequence[str]) -> list[str]:
    """Return distinct names of letters, digits and `_` that begin with a letter.

    Other characters become `_`. A name that does not begin with a letter gets the
    prefix `x`, and a Python keyword the suffix `_`. Names that are legal do not change,
    except that of equal names only the first stays and the others get the suffixes
    `_1`, `_2`, ...

    Args:
        names: The names.

    Returns:
        The legal names, in the same order.

    Example:
    ```python
    from bn_keras.export.naming import legal_names

    assert legal_names(["image-1", "image_1", "2nd", "image_1"]) == [
        "image_1_1", "image_1", "x2nd", "image_1_2"
    ]
    ```
    """
    candidates = [_make_legal(name) for name in names]
    # Names that were legal have the first claim to themselves. The order is reversed
    # because the last assignment to a key counts.
    owners = {
        candidate: position
        for position, candidate in reversed(list(enumerate(candidates)))
        if names[position] == candidate
    }
    for position, candidate in enumerate(candidates):
        owners.setdefault(candidate, position)
    taken, result = set(owners), []
    for position, candidate in enumerate(candidates):
        count, unique = 0, candidate
        while owners.get(unique) != position and unique in taken:
            count += 1
            unique = f"{candidate}_{count}"
        taken.add(unique)
        result.append(unique)
    return result


def _make_legal(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not re.match("[A-Za-z]", name):
        name = f"x{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def _use_keys(structure: Any, names: list[str]) -> list[str]:
    # If there is a dictionary anywhere on the path to a tensor, the path names it.
    paths = [path for path, _ in tree.flatten_with_path(structure)]
    return [
        "_".join(map(str, path)) if any(isinstance(key, str) for key in path) else name
        for path, name in zip(paths, names, strict=True)
    ]
