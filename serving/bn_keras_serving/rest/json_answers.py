"""JSON documents of REST responses.

The rules and error messages are those of TensorFlow Serving's `util/json_tensor.cc`.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from bn_keras_serving.common.errors import InvalidRequestError

BYTES_SUFFIX = "_bytes"
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_PART = 2**14  # numbers
# The element types that have a form in JSON.
_SUPPORTED_TYPES = {
    *("float32", "float64", "bool", "object", "int8", "int16", "int32", "int64"),
    *("uint8", "uint32", "uint64"),
}


def encode_predictions(
    outputs: Mapping[str, np.ndarray], by_row: bool
) -> list[bytes | memoryview]:
    """Return the document for a Predict response, in parts.

    A single output is written as a plain value, several as an object. Strings are
    written as `{"b64": ...}` if the output's name ends with `_bytes`.

    Args:
        outputs: Output name to array; strings as object arrays of bytes.
        by_row: Whether the request had `instances`, which are answered row by row under
            `predictions`, or `inputs`, which are answered under `outputs`.

    Raises:
        InvalidRequestError: If an output has no form in JSON, or cannot be split into
            rows.
    """
    if not outputs:
        raise InvalidRequestError("Cannot convert empty tensor map to JSON")
    arrays = dict(sorted(outputs.items()))
    for array in arrays.values():
        _check_type(array)
    if by_row:
        _check_rows(arrays)
    key = "predictions" if by_row else "outputs"
    if not all(map(_is_finite, arrays.values())):
        # orjson would write null in place of NaN.
        values = {name: _to_lists(name, array) for name, array in arrays.items()}
        return [_to_json({key: _arrange(values, by_row)})]
    values = {name: _to_writable(name, array) for name, array in arrays.items()}
    content = _arrange(values, by_row)
    if isinstance(content, np.ndarray):
        return [f'{{"{key}":'.encode(), *_write(content), b"}"]
    return [orjson.dumps({key: content}, option=_NUMPY)]


def encode_classifications(result: Any) -> bytes:
    """Return the document for a Classify response, pairs of label and score.

    Args:
        result: A `ClassificationResult`.

    Raises:
        InvalidRequestError: If the result is empty.
    """
    if not result.classifications:
        raise InvalidRequestError("Cannot convert empty ClassificationResults to JSON")
    return _to_json(
        {
            "results": [
                list(
                    zip(
                        [entry.label for entry in example.classes],
                        _floats([entry.score for entry in example.classes]),
                        strict=True,
                    )
                )
                for example in result.classifications
            ]
        }
    )


def encode_regressions(result: Any) -> bytes:
    """Return the document for a Regress response, a number for each example.

    Args:
        result: A `RegressionResult`.

    Raises:
        InvalidRequestError: If the result is empty.
    """
    if not result.regressions:
        raise InvalidRequestError("Cannot convert empty RegressionResults to JSON")
    values = _floats([regression.value for regression in result.regressions])
    return _to_json({"results": values})


def encode_error(details: str) -> bytes:
    """Return the document for an error."""
    return _to_json({"error": details})


def _check_type(array: np.ndarray) -> None:
    # The name is that in TensorFlow's C++ code; a quantized type is a structured one.
    name = array.dtype.names[0] if array.dtype.names else array.dtype.name
    if name not in _SUPPORTED_TYPES:
        name = "half" if name == "float16" else name
        raise InvalidRequestError(f"Failed to write JSON value for tensor type: {name}")


def _check_rows(arrays: Mapping[str, np.ndarray]) -> None:
    """Check that all outputs have a first axis of the same size."""
    expected = None
    for name, array in arrays.items():
        if array.ndim == 0:
            raise InvalidRequestError(f"Tensor name: {name} has no shape information ")
        if expected not in (None, len(array)):
            raise InvalidRequestError(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {expected}"
            )
        expected = len(array)


def _arrange(values: dict[str, Any], by_row: bool) -> Any:
    if len(values) == 1:
        return next(iter(values.values()))
    if not by_row:
        return values
    rows = zip(*values.values(), strict=True)
    return [dict(zip(values, row, strict=True)) for row in rows]


def _write(array: np.ndarray) -> Iterator[bytes | memoryview]:
    """Yield the JSON of an array in parts, of which each fits into a cache.

    This takes two thirds of the time that writing it as a whole takes.
    """
    if array.size <= _PART:
        yield orjson.dumps(array, option=_NUMPY)
        return
    row = array.size // len(array)
    yield b"["
    step = max(1, _PART // row)
    for start in range(0, len(array), step):
        if start:
            yield b","
        if row > _PART:
            yield from _write(array[start])
        else:
            part = orjson.dumps(array[start : start + step], option=_NUMPY)
            yield memoryview(part)[1:-1]  # without its brackets
    yield b"]"


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype.kind != "f" or not array.size:
        return True
    # Both are NaN if there is a NaN anywhere.
    return math.isfinite(array.min()) and math.isfinite(array.max())


def _to_writable(name: str, array: np.ndarray) -> Any:
    """Convert an array to what orjson can write."""
    if array.dtype == np.object_:
        return _to_lists(name, array)
    # orjson does not write arrays without axes.
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _to_lists(name: str, array: np.ndarray) -> Any:
    """Convert an array to nested lists of numbers and strings."""
    if array.dtype == np.float32:
        return _shortest(array).tolist()
    if array.dtype != np.object_:
        return array.tolist()
    convert = _to_base64 if name.endswith(BYTES_SUFFIX) else _to_text
    strings = np.empty(array.shape, np.object_)
    strings.ravel()[:] = [convert(value, name) for value in array.ravel()]
    return strings.tolist()


def _shortest(array: np.ndarray) -> np.ndarray:
    """Return the float64 values with the fewest digits that equal float32 values.

    The float32 nearest to 0.2, for example, is 0.20000000298023224 in float64.
    """
    finite = np.isfinite(array)
    text = orjson.dumps(np.where(finite, array, 0).ravel(), option=_NUMPY)
    shortest = np.array(orjson.loads(text), np.float64).reshape(array.shape)
    return np.where(finite, shortest, array)


def _to_base64(value: bytes, name: str) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _to_text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"Tensor name: {name} has bytes that are not UTF-8. Only an output whose "
            f"name ends with {BYTES_SUFFIX} is written in base64."
        ) from None


def _floats(values: list[float]) -> list[float]:
    return _shortest(np.array(values, np.float32)).tolist()


def _to_json(document: dict[str, Any]) -> bytes:
    # NaN, Infinity and -Infinity are written as such, although strict parsers reject
    # them. TensorFlow Serving does the same (g3doc/api_rest.md, "JSON conformance").
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
