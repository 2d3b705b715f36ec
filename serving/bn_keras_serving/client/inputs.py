"""Fit a user's values to a signature of a model, or say what does not fit.

Knows NumPy and signature definitions; no server and no request.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# The types that NumPy gives Python's numbers; an array of another one was meant so.
_DEFAULTS = tuple(map(np.dtype, (np.int64, np.float64, np.complex128)))


def chosen(signatures: Mapping[str, Any], name: str, method: str, mend: str) -> Any:
    """Return the definition of one signature.

    Args:
        signatures: Name to `SignatureDef`.
        name: The one wanted.
        method: The method it must have, such as `tensorflow/serving/classify`; any if
            empty.
        mend: What to do where there is none.

    Raises:
        ValueError: There is none of that name and method.
    """
    names = sorted(
        name for name, one in signatures.items() if method in ("", one.method_name)
    )
    if name not in names:
        which = f" of the method {method}" if method else ""
        raise ValueError(
            f"`signature_name` must be one of the signatures {names}{which}. "
            f"Received: signature_name={name!r}; {mend}"
        )
    return signatures[name]


def described(infos: Mapping[str, Any]) -> dict[str, tuple[np.dtype, tuple | None]]:
    """Return the type and shape of each input or output.

    Args:
        infos: Name to `TensorInfo`.

    Returns:
        Name to `(dtype, shape)`: object for strings, None in a shape for any size,
        None for a shape of any rank.
    """
    return {
        name: (
            np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(
                None if dimension.size < 0 else dimension.size
                for dimension in info.tensor_shape.dim
            ),
        )
        for name, info in sorted(infos.items())
    }


def named(inputs: Any, definition: Any) -> Mapping[str, Any]:
    """Return inputs by name; values alone get the name of the one required input.

    Raises:
        ValueError: Values alone, and not one required input.
    """
    if isinstance(inputs, Mapping):
        return inputs
    names = sorted(set(definition.inputs) - set(definition.defaults))
    if len(names) != 1:
        raise ValueError(
            f"`inputs` must be a dictionary with the inputs {names}. Received: an "
            "array alone; name it"
        )
    return {names[0]: inputs}


def fitted(inputs: Mapping[str, Any], definition: Any) -> dict[str, np.ndarray]:
    """Return arrays of a signature's types and shapes.

    Python's numbers, and NumPy's arrays of the types it gives them, take the type of
    the input where every value stays within its range and no fraction is lost. Other
    arrays must have the type.

    Args:
        inputs: Name to array, nested list, number or string.
        definition: The `SignatureDef`.

    Raises:
        ValueError: A name, type, value, rank or size that the signature does not take.
    """
    expected = described(definition.inputs)
    required = set(expected) - set(definition.defaults)
    missing = sorted(required - set(inputs))
    unknown = sorted(set(inputs) - set(expected))
    if missing or unknown:
        mends = [f"add {', '.join(missing)}"] * bool(missing)
        mends += [f"leave out {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(
            f"`inputs` must have the names {sorted(expected)}. Received: "
            f"{sorted(inputs)}; {' and '.join(mends)}"
        )
    return {
        name: _fitted(name, value, *expected[name]) for name, value in inputs.items()
    }


def unchecked(value: Any) -> np.ndarray:
    """Return a value as an array; byte strings keep their trailing zeros."""
    array = np.asarray(value)
    return np.asarray(value, object) if array.dtype.kind in "SU" else array


def check_outputs(output_filter: Iterable[str], definition: Any) -> None:
    """Raise ValueError for a name that is no output, or is there twice."""
    names = list(output_filter)
    if len(set(names)) < len(names) or set(names) - set(definition.outputs):
        raise ValueError(
            f"`output_filter` must name outputs of {sorted(definition.outputs)}, each "
            f"once. Received: output_filter={names}; mend the names"
        )


def _fitted(name, value, dtype, shape):
    text = dtype == np.dtype(object)
    try:
        array = np.asarray(value, object if text else None)
    except ValueError:
        raise ValueError(
            f"`{name}` must be an array. Received: {name} of lists of unequal lengths; "
            "send rows of one length"
        ) from None
    if text:
        odd = next((one for one in array.flat if not isinstance(one, bytes | str)), "")
        if odd != "":
            raise ValueError(
                f"`{name}` must be of strings. Received: {name} with "
                f"{type(odd).__name__}; send bytes or str"
            )
    elif array.dtype != dtype:
        array = _converted(name, array, dtype)
    if shape is not None and not _fits(array.shape, shape):
        if _fits((1, *array.shape), shape):
            mend = f"add the axis of the batch, numpy.asarray({name})[numpy.newaxis]"
        else:
            mend = "None stands for any size"
        raise ValueError(
            f"`{name}` must be of shape {shape}. Received: {name} of shape "
            f"{array.shape}; {mend}"
        )
    if _is_empty(array.shape, shape):
        raise ValueError(
            f"`{name}` must hold one example or more. Received: {name} of shape "
            f"{array.shape}; send no request for none"
        )
    return array


def _is_empty(given, shape):
    """Whether an array has no examples along a batch axis."""
    return bool(shape) and shape[0] is None and given[0] == 0


def _fits(given, shape):
    return len(given) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(given, shape, strict=True)
    )


def _converted(name, array, dtype):
    # The same type in the byte order of another machine is the same type.
    if array.dtype.newbyteorder("=") == dtype:
        return array.astype(dtype)
    wanted = tf.as_dtype(dtype)
    # Python's numbers go from int to float to complex, never back.
    height = [wanted.is_integer, wanted.is_floating, wanted.is_complex]
    if array.size == 0 or (
        array.dtype in _DEFAULTS
        and True in height
        and _DEFAULTS.index(array.dtype) <= height.index(True)
    ):
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(dtype)
        if wanted.is_integer:
            outside = (array < wanted.min) | (array > wanted.max)
        else:
            outside = np.isfinite(array) & ~np.isfinite(converted)
        if outside.any():
            raise ValueError(
                f"`{name}` must be of values from {wanted.min} to {wanted.max}, those "
                f"of {dtype.name}. Received: {name} with {array[outside].flat[0]}; "
                "scale it, or export the model with a wider type"
            )
        return converted
    if array.dtype.kind in "SUO":
        mend = "send numbers"
    elif wanted.is_integer and array.dtype.kind == "f":
        mend = f"round it, numpy.rint({name}).astype({dtype.name!r})"
    else:
        mend = f"convert it, numpy.asarray({name}).astype({dtype.name!r})"
    raise ValueError(
        f"`{name}` must be of type {dtype.name}. Received: {name} of type "
        f"{array.dtype.name}; {mend}"
    )
