"""Fast conversion of JSON requests for Predict that consist of numbers.

Parsing a document into Python's numbers and these into arrays takes ten times as long.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import simdjson

from bn_keras_serving.common.messages import DEFAULT_SIGNATURE
from bn_keras_serving.rest.json_tensors import NUMPY_TYPES, DecodedInputs, InputTypes

# simdjson counts the elements of a list up to this number.
_MAXIMUM_COUNT = 0xFFFFFF
_STRUCTURE = "[]{},"
_OTHER_BYTES = bytes(byte for byte in range(256) if chr(byte) not in _STRUCTURE)
# For each kind of NumPy's types, the type in which simdjson returns numbers, and its
# name there.
_PARSED_TYPES = {"f": (np.float64, "d"), "i": (np.int64, "i"), "u": (np.uint64, "u")}


def decode(
    body: bytes | bytearray, types: Mapping[str, InputTypes]
) -> tuple[str, DecodedInputs] | None:
    """Return the signature and the inputs of a request, if the fast way is possible.

    It is for inputs that are lists of numbers, by row or by column, with names or
    without. Other documents may be valid, too.

    Args:
        body: JSON in UTF-8.
        types: Signature name to the types of its inputs.

    Returns:
        Name of the signature, "" if the document has none, and the inputs, equal to
        those that `json_tensors` returns; None if the document is invalid or contains
        anything else.
    """
    try:
        return _decode(body, types)
    except Exception:  # simdjson raises errors of many types
        return None


class _OtherDocumentError(Exception):
    """The document is not one of those that this module converts."""


def _decode(
    body: bytes | bytearray, types_by_signature: Mapping[str, InputTypes]
) -> tuple[str, DecodedInputs]:
    document: Any = simdjson.Parser().parse(body)
    keys = list(document.keys())
    name = document["signature_name"] if "signature_name" in keys else ""
    _check_name(name)
    types = types_by_signature[name or DEFAULT_SIGNATURE]
    by_row = "instances" in keys
    values_key = "instances" if by_row else "inputs"
    if sorted(keys) not in ([values_key], [values_key, "signature_name"]):
        raise _OtherDocumentError
    arrays, structure = _decode_values(document[values_key], types, by_row)
    # simdjson flattens lists, whatever their shapes. They have the shapes that the
    # first element of each list points to if the document consists of the brackets and
    # commas that follow from these shapes: there must be a number between any two of
    # them, since `_array` has found as many numbers as there are places.
    members = [structure if key == values_key else b"" for key in keys]
    if body.translate(None, _OTHER_BYTES) != b"{" + b",".join(members) + b"}":
        raise _OtherDocumentError
    return name, DecodedInputs(arrays, by_row)


def _decode_values(
    values: Any, types: InputTypes, by_row: bool
) -> tuple[dict[str, np.ndarray], bytes]:
    """Return the inputs, and the brackets and commas that they should consist of."""
    first = values[0] if by_row else values
    if not isinstance(first, simdjson.Object):
        ((name, dtype),) = types.items()
        array = _array([values], _shape(values), dtype)
        return {name: array}, _structure(array.shape)
    names = list(first.keys())
    rows = list(values) if by_row else [values]
    if sorted(names) != sorted(types):
        raise _OtherDocumentError
    arrays, structures = {}, []
    for name in names:
        _check_name(name)
        shape = _shape(first[name])
        array = _array(
            [row[name] for row in rows],
            [len(rows), *shape] if by_row else shape,
            types[name],
        )
        arrays[name] = array
        structures.append(_structure(array.shape[by_row:]))
    row = b"{" + b",".join(structures) + b"}"
    return arrays, _list(row, len(rows)) if by_row else row


def _check_name(name: str) -> None:
    """Check that a string adds nothing to the brackets and commas of a document."""
    if not isinstance(name, str) or set(name) & set(_STRUCTURE):
        raise _OtherDocumentError


def _shape(value: Any) -> list[int]:
    """Return the shape to which the first element of each list points.

    A size that simdjson does not know is -1.
    """
    shape: list[int] = []
    while isinstance(value, simdjson.Array):
        shape.append(len(value) if len(value) < _MAXIMUM_COUNT else -1)
        value = value[0]  # of an empty list, this raises IndexError
    return shape


def _array(lists: list[Any], shape: list[int], dtype: int) -> np.ndarray:
    """Return the numbers in some lists as one array; they must be as many as fit."""
    numpy_type = np.dtype(NUMPY_TYPES[dtype])
    parsed_type, code = _PARSED_TYPES[numpy_type.kind]
    parts = [np.frombuffer(part.as_buffer(of_type=code), parsed_type) for part in lists]
    numbers = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if numpy_type.kind != "f":
        bounds = np.iinfo(numpy_type.name)
        if numbers.min() < bounds.min or numbers.max() > bounds.max:
            raise _OtherDocumentError
    # Values out of range become infinity or zero.
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(numpy_type, copy=False).reshape(shape)


def _structure(shape: tuple[int, ...]) -> bytes:
    """Return the brackets and commas of nested lists: `[[,],[,]]` for `(2, 2)`."""
    structure = b""
    for size in reversed(shape):
        structure = _list(structure, size)
    return structure


def _list(structure: bytes, size: int) -> bytes:
    return b"[" + (structure + b",") * (size - 1) + structure + b"]"
