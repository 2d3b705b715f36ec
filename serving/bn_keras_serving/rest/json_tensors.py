"""Conversion of JSON requests for Predict to arrays.

The rules and error messages are those of TensorFlow Serving's `util/json_tensor.cc`.
"""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.common.messages import DATA_TYPES
from bn_keras_serving.rest.json_text import (
    excerpt,
    invalid_value,
    is_binary,
    json_type,
    to_bytes,
)

# The types that are written as numbers or booleans: number of the type in TensorFlow's
# enumeration `DataType` to NumPy's type.
NUMPY_TYPES: dict[int, type[np.generic]] = {
    DATA_TYPES["DT_FLOAT"]: np.float32,
    DATA_TYPES["DT_DOUBLE"]: np.float64,
    DATA_TYPES["DT_INT8"]: np.int8,
    DATA_TYPES["DT_INT16"]: np.int16,
    DATA_TYPES["DT_INT32"]: np.int32,
    DATA_TYPES["DT_INT64"]: np.int64,
    DATA_TYPES["DT_UINT8"]: np.uint8,
    DATA_TYPES["DT_UINT32"]: np.uint32,
    DATA_TYPES["DT_UINT64"]: np.uint64,
    DATA_TYPES["DT_BOOL"]: np.bool_,
}
_STRING = DATA_TYPES["DT_STRING"]
_MAXIMUM_RANK = 64  # of NumPy's arrays; TensorFlow's kernels stop at eight
# In TensorFlow's C++ code the types are called `float`, `half`, ...
_TYPE_NAMES = {
    number: name.removeprefix("DT_").lower() for name, number in DATA_TYPES.items()
}

# Values that are checked at a time where one of them is invalid.
_CHUNK = 4096

# Input name of a signature to the number of its type in `DataType`.
InputTypes = Mapping[str, int]


class DecodedInputs(NamedTuple):
    """The inputs of a request, and whether it sent them by row (as `instances`).

    Strings are object arrays of bytes.
    """

    arrays: dict[str, np.ndarray]
    by_row: bool


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the name of the requested signature; "" if the document has none.

    Raises:
        InvalidRequestError: If the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_value(
            document,
            "not formatted correctly. 'signature_name' key must be a string value.",
        )
    return name


def decode_inputs(document: Mapping[str, Any], types: InputTypes) -> DecodedInputs:
    """Return the inputs of a request for Predict.

    Args:
        document: Object with either `instances`, a list of rows, or `inputs`, a list of
            values for each input.
        types: Input name of the signature to its type.

    Raises:
        InvalidRequestError: If the values cannot be converted to arrays of the types
            in the signature.
        UnsupportedError: If an input's type has no form in JSON.
    """
    if "instances" in document and "inputs" in document:
        raise invalid_value(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist ",
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid_value(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise invalid_value(document, "No values in 'instances' array")
        return DecodedInputs(_from_rows(rows, types), True)
    if "inputs" in document:
        return DecodedInputs(_from_columns(document["inputs"], types), False)
    raise InvalidRequestError("Missing 'inputs' or 'instances' key")


def _from_rows(rows: list[Any], types: InputTypes) -> dict[str, np.ndarray]:
    named = _is_object(rows[0])
    if not named and len(types) > 1:
        raise InvalidRequestError(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    for number, row in enumerate(rows):
        if _is_object(row) != named:
            raise InvalidRequestError(
                "Expecting "
                + ("object but got list" if named else "value/list but got object")
                + f" at item {number} of input list"
            )
    if not named:
        ((name, dtype),) = types.items()
        return {name: _rows_array(rows, dtype)}
    for number, row in enumerate(rows):
        _check_names(number, row, types)
    return {
        name: _rows_array([row[name] for row in rows], dtype, name)
        for name, dtype in types.items()
    }


def _check_names(number: int, row: dict[str, Any], types: InputTypes) -> None:
    for name in row:
        if name not in types:
            status = f"INVALID_ARGUMENT: JSON object: does not have named input: {name}"
            raise _invalid_element(number, status, name)
    if len(row) != len(types):
        raise InvalidRequestError(
            f"Failed to process element: {number} of 'instances' list. JSON object: "
            f"{excerpt(row)} keys must be equal to: {','.join(sorted(types))}"
        )


def _from_columns(values: object, types: InputTypes) -> dict[str, np.ndarray]:
    if not _is_object(values):
        if len(types) > 1:
            raise InvalidRequestError(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        ((name, dtype),) = types.items()
        return {name: _array(values, dtype)}
    for name in types:
        if name not in values:
            raise InvalidRequestError(
                f"Missing named input: {name} in 'inputs' object."
            )
    return {name: _array(values[name], dtype) for name, dtype in types.items()}


def _rows_array(rows: list[Any], dtype: int, name: str = "") -> np.ndarray:
    """Return an array of rows of equal shape; an error names the first invalid row."""
    try:
        return _stack(rows, dtype)
    except _NotATensorError:
        pass
    # Something is wrong: find the first row that TensorFlow Serving would name.
    first = None
    valid = _count_valid(rows, dtype, _apparent_shape(rows[0]))
    start = max(0, valid - 1)  # the others are compared with the last valid one
    for number, row in enumerate(rows[start:], start):
        shape = _apparent_shape(row)
        try:
            size = _count(row, 0, shape, dtype)
            first = first or (size, shape)
            if size != first[0]:
                raise InvalidRequestError(
                    f"Expecting tensor size: {first[0]} but got: {size}"
                )
            if shape != first[1]:
                raise InvalidRequestError(
                    f"Expecting shape {_format_shape(first[1])} but got: "
                    f"{_format_shape(shape)}"
                )
        except (InvalidRequestError, UnsupportedError) as error:
            unsupported = isinstance(error, UnsupportedError)
            status = "UNIMPLEMENTED" if unsupported else "INVALID_ARGUMENT"
            raise _invalid_element(number, f"{status}: {error}", name) from None
    raise InvalidRequestError(f"Expecting rows of type: {_TYPE_NAMES[dtype]}")


def _array(value: object, dtype: int) -> np.ndarray:
    try:
        return _stack(value, dtype)
    except _NotATensorError:
        _count(value, 0, _apparent_shape(value), dtype)
    raise invalid_value(value, f"is not of expected type: {_TYPE_NAMES[dtype]}")


class _NotATensorError(Exception):
    """Values cannot be converted; the slow path finds out why."""


def _stack(value: Any, dtype: int) -> np.ndarray:
    """Convert nested lists to an array.

    The lists are flattened level by level rather than recursively. For an image, this
    takes a quarter of the time that parsing the document takes.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    types = {type(value)}
    while types == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == _MAXIMUM_RANK:
            raise _NotATensorError
        shape.extend(sizes)
        level = list(chain.from_iterable(level))
        types = set(map(type, level))
    convert = _strings if dtype == _STRING else _numbers
    return convert(level, types, dtype).reshape(shape)


def _strings(values: list[Any], types: set[type], dtype: int) -> np.ndarray:
    if not types <= {str, dict}:
        raise _NotATensorError
    strings = np.empty(len(values), np.object_)
    try:
        strings[:] = list(map(to_bytes, values))
    except InvalidRequestError:
        raise _NotATensorError from None
    return strings


def _numbers(values: list[Any], types: set[type], dtype: int) -> np.ndarray:
    """Convert values to an array, exactly except for the rounding of floats."""
    numpy_type = NUMPY_TYPES.get(dtype)
    if numpy_type is None:
        raise _NotATensorError
    is_float = issubclass(numpy_type, np.floating)
    allowed = {int, float} if is_float else {bool if numpy_type is np.bool_ else int}
    if not types <= allowed:
        raise _NotATensorError
    try:
        if is_float:
            # Values out of range become infinity or zero.
            with np.errstate(over="ignore", under="ignore"):
                return np.array(values, np.float64).astype(numpy_type)
        return np.array(values, numpy_type)
    except OverflowError:
        raise _NotATensorError from None


def _count(value: object, level: int, shape: list[int], dtype: int) -> int:
    """Count the values of a tensor, or raise an error where its shape differs."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_value(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                f"level: {len(shape)}",
            )
        _check_value(value, dtype)
        return 1
    if level >= len(shape):
        raise InvalidRequestError(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise InvalidRequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    valid = _count_valid(value, dtype, shape[level + 1 :])
    return valid * math.prod(shape[level + 1 :]) + sum(
        _count(item, level + 1, shape, dtype) for item in value[valid:]
    )


def _count_valid(values: list[Any], dtype: int, shape: list[int]) -> int:
    """Return a number of values before the first one that is not a tensor of a shape.

    They are checked in chunks: millions of them would take a minute one by one.
    """
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        try:
            if _stack(chunk, dtype).shape != (len(chunk), *shape):
                return start
        except _NotATensorError:
            return start
    return len(values)


def _check_value(value: object, dtype: int) -> None:
    if dtype == _STRING and isinstance(value, (str, dict)):
        to_bytes(value)
        return
    if dtype not in NUMPY_TYPES and dtype != _STRING:
        raise UnsupportedError(
            f"Conversion of JSON Value: {excerpt(value)} to type: {_TYPE_NAMES[dtype]}"
        )
    try:
        if dtype in NUMPY_TYPES:
            _numbers([value], {type(value)}, dtype)
            return
    except _NotATensorError:
        pass
    raise invalid_value(
        value,
        f"Type: {json_type(value)} is not of expected type: {_TYPE_NAMES[dtype]}",
    )


def _apparent_shape(value: object) -> list[int]:
    """Return the shape to which the first element of each list points."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAXIMUM_RANK:
            raise InvalidRequestError(
                "Encountered list at unexpected level: "
                f"{_MAXIMUM_RANK}. A tensor must have at most "
                f"{_MAXIMUM_RANK} dimensions."
            )
        if not value:
            break
        value = value[0]
    return shape


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and not is_binary(value)


def _invalid_element(number: int, status: str, name: str) -> InvalidRequestError:
    key = f" key: {name}" if name else ""
    return InvalidRequestError(
        f"Failed to process element: {number}{key} of 'instances' list. Error: {status}"
    )


def _format_shape(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
