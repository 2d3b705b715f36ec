"""Convert a user's values to the inputs of a signature, or report why they differ."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bn_keras_serving.client import tensors

# The types that NumPy gives Python's numbers, from the narrowest kind to the widest.
# An array of any other type was given that type on purpose.
_DEFAULTS = tuple(map(np.dtype, (np.int64, np.float64, np.complex128)))
_KINDS = ("int", "float", "complex")

# Type and shape of each input or output of a signature.
Specs = dict[str, tuple[np.dtype[Any], tuple[int | None, ...] | None]]


def find_signature(
    signatures: Mapping[str, Any], name: str, method: str, hint: str
) -> Any:
    """Return the definition of a signature.

    Args:
        signatures: Name to `SignatureDef`.
        name: The name to look for.
        method: Method that the signature must have, such as
            `tensorflow/serving/classify`; empty for any.
        hint: What to do if there is no such signature.

    Raises:
        ValueError: No signature has that name and method.
    """
    names = sorted(
        name
        for name, definition in signatures.items()
        if method in ("", definition.method_name)
    )
    if name not in names:
        which = f" of the method {method}" if method else ""
        raise ValueError(
            f"`signature_name` must be one of the signatures {names}{which}. "
            f"Received: signature_name={name!r}. {hint}"
        )
    return signatures[name]


def describe(infos: Mapping[str, Any]) -> Specs:
    """Return the type and shape of each input or output.

    Args:
        infos: Name to `TensorInfo`.

    Returns:
        Name to `(dtype, shape)`: object for strings, None in a shape for any size, and
        None instead of a shape for any rank.
    """
    return {
        name: (
            tensors.numpy_dtype(info.dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(
                None if dimension.size < 0 else dimension.size
                for dimension in info.tensor_shape.dim
            ),
        )
        for name, info in sorted(infos.items())
    }


def name_inputs(inputs: Any, definition: Any) -> Mapping[str, Any]:
    """Return inputs by name; unnamed values belong to the only required input.

    Raises:
        ValueError: The values have no name, and several inputs are required.
    """
    if isinstance(inputs, Mapping):
        return inputs
    names = sorted(set(definition.inputs) - set(definition.defaults))
    if len(names) != 1:
        raise ValueError(
            f"`inputs` must be a dictionary with the inputs {names}. Received: one "
            "array without a name. Name each array."
        )
    return {names[0]: inputs}


def fit_inputs(
    inputs: Mapping[str, Any], definition: Any, check_shapes: bool = False
) -> dict[str, np.ndarray]:
    """Return inputs as arrays of the types of a signature.

    Python's numbers, and NumPy's arrays of the types that NumPy gives them, take the
    type of the input if every value is within its range and no fraction is lost. Other
    arrays must have the type.

    Args:
        inputs: Name to array, nested list, number or string.
        definition: The `SignatureDef`.
        check_shapes: Whether they must also have its shapes. A graph may accept others
            than its signature declares.

    Raises:
        ValueError: The signature does not accept a name, type, value or shape.
    """
    specs = describe(definition.inputs)
    missing = sorted(set(specs) - set(definition.defaults) - set(inputs))
    unknown = sorted(set(inputs) - set(specs))
    if missing or unknown:
        hints = [f"add {', '.join(missing)}"] * bool(missing)
        hints += [f"leave out {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(
            f"`inputs` must have the names {sorted(specs)}. Received: "
            f"{sorted(inputs)}. To fix it, {' and '.join(hints)}."
        )
    arrays = {name: _fit(name, value, specs[name][0]) for name, value in inputs.items()}
    if check_shapes:
        for name, array in arrays.items():
            _check_shape(name, array, specs[name][1])
    return arrays


def as_array(value: Any) -> np.ndarray:
    """Return a value as an array, strings as an array of objects."""
    array = np.asarray(value)
    # NumPy's own type for byte strings would lose trailing zero bytes.
    return np.asarray(value, object) if array.dtype.kind in "SU" else array


def check_output_filter(output_filter: Iterable[str], definition: Any) -> None:
    """Raise ValueError unless each name is an output and appears once."""
    names = list(output_filter)
    if len(set(names)) < len(names) or set(names) - set(definition.outputs):
        raise ValueError(
            f"`output_filter` must name outputs of {sorted(definition.outputs)}, each "
            f"once. Received: output_filter={names}."
        )


def _fit(name: str, value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    is_string = dtype == np.dtype(object)
    try:
        array = np.asarray(value, object if is_string else None)
    except ValueError:
        raise ValueError(
            f"`{name}` must be an array. Received: {name} of lists of different "
            "lengths. Send rows of the same length."
        ) from None
    if is_string:
        for element in array.flat:
            if not isinstance(element, bytes | str):
                raise ValueError(
                    f"`{name}` must be of strings. Received: {name} with an element of "
                    f"type {type(element).__name__}. Send bytes or str."
                )
    elif array.dtype != dtype:
        array = _convert(name, array, dtype)
    return array


def _check_shape(
    name: str, array: np.ndarray, shape: tuple[int | None, ...] | None
) -> None:
    if shape is not None and not _has_shape(array.shape, shape):
        if _has_shape((1, *array.shape), shape):
            hint = f"Add the batch axis: numpy.asarray({name})[numpy.newaxis]."
        else:
            hint = "None stands for any size."
        raise ValueError(
            f"`{name}` must be of shape {shape}. Received: {name} of shape "
            f"{array.shape}. {hint}"
        )
    # The model would fail at run time, or crash, on a batch without examples.
    if shape and shape[0] is None and not len(array):
        raise ValueError(
            f"`{name}` must hold at least one example. Received: {name} of shape "
            f"{array.shape}. Send no request without examples."
        )


def _has_shape(shape: tuple[int, ...], pattern: tuple[int | None, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        expected in (None, size) for size, expected in zip(shape, pattern, strict=True)
    )


def _convert(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    # The same type in another byte order is the same type.
    if array.dtype.newbyteorder("=") == dtype:
        return array.astype(dtype)
    kind = _kind(dtype)
    if array.size == 0 or (
        array.dtype in _DEFAULTS
        and kind in _KINDS
        # From int to float to complex, never back.
        and _DEFAULTS.index(array.dtype) <= _KINDS.index(kind)
    ):
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(dtype)
        _check_range(name, array, converted)
        return converted
    if array.dtype.kind in "SUO":
        hint = "Send numbers."
    elif kind == "int" and array.dtype.kind == "f":
        hint = f"Round it: numpy.rint({name}).astype({dtype.name!r})."
    else:
        hint = f"Convert it: numpy.asarray({name}).astype({dtype.name!r})."
    raise ValueError(
        f"`{name}` must be of type {dtype.name}. Received: {name} of type "
        f"{array.dtype.name}. {hint}"
    )


def _check_range(name: str, array: np.ndarray, converted: np.ndarray) -> None:
    """Raise ValueError for values that the type of `converted` cannot hold."""
    if array.size == 0:
        return
    dtype = converted.dtype
    # NumPy knows the limits of its own types only.
    library = np if dtype.isbuiltin == 1 else importlib.import_module("ml_dtypes")
    if _kind(dtype) == "int":
        limits = library.iinfo(dtype)
        outside = (array < limits.min) | (array > limits.max)
    else:
        limits = library.finfo(dtype)
        outside = np.isfinite(array) & ~np.isfinite(converted)
    if outside.any():
        raise ValueError(
            f"`{name}` must have values from {limits.min} to {limits.max}, the range "
            f"of {dtype.name}. Received: {name} with {array[outside].flat[0]}. Scale "
            "it, or export the model with a wider type."
        )


def _kind(dtype: np.dtype[Any]) -> str:
    """Return `int`, `float`, `complex`, or nothing for other types."""
    # From the name, since NumPy has no kind for the types of ml_dtypes.
    return next((kind for kind in _KINDS if kind in dtype.name), "")
