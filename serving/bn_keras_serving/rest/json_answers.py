"""JSON documents of REST responses.

The rules and error messages are those of TensorFlow Serving's `util/json_tensor.cc`.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError

BYTES_SUFFIX = "_bytes"
# The element types that have a form in JSON.
_SUPPORTED_TYPES = {
    *(types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_BOOL, types_pb2.DT_STRING),
    *(types_pb2.DT_INT8, types_pb2.DT_INT16, types_pb2.DT_INT32, types_pb2.DT_INT64),
    *(types_pb2.DT_UINT8, types_pb2.DT_UINT32, types_pb2.DT_UINT64),
}


def encode_predictions(
    outputs: Mapping[str, tensor_pb2.TensorProto], by_row: bool
) -> bytes:
    """Return the document for a Predict response.

    A single output is written as a plain value, several as an object. Strings are
    written as `{"b64": ...}` if the output's name ends with `_bytes`.

    Args:
        outputs: Output name to `TensorProto`.
        by_row: Whether the request had `instances`, which are answered row by row under
            `predictions`, or `inputs`, which are answered under `outputs`.

    Raises:
        InvalidRequestError: If an output has no form in JSON, or cannot be split into
            rows.
    """
    if not outputs:
        raise InvalidRequestError("Cannot convert empty tensor map to JSON")
    arrays = {name: _to_array(proto) for name, proto in sorted(outputs.items())}
    if by_row:
        _check_rows(arrays)
    values = {name: _to_lists(name, array) for name, array in arrays.items()}
    if len(values) == 1:
        (content,) = values.values()
    elif by_row:
        rows = zip(*values.values(), strict=True)
        content = [dict(zip(values, row, strict=True)) for row in rows]
    else:
        content = values
    return _to_json({"predictions" if by_row else "outputs": content})


def encode_classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Return the document for a Classify response, pairs of label and score.

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


def encode_regressions(result: regression_pb2.RegressionResult) -> bytes:
    """Return the document for a Regress response, a number for each example.

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


def round_to_shortest(array: np.ndarray) -> np.ndarray:
    """Return the float64 values with the fewest digits that equal float32 values.

    The float32 nearest to 0.2, for example, is 0.20000000298023224 in float64.
    Formatting float32 values with NumPy takes ten times as long.

    Args:
        array: A float32 array.

    Returns:
        A float64 array of the same shape; `.astype(np.float32)` restores the input.
    """
    exact = array.astype(np.float64)
    shortest = exact
    with np.errstate(all="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
        # Nine digits always suffice for float32. Fewer overwrite more where they do.
        for digits in (9, 8, 7, 6):
            scales = 10.0 ** (digits - 1 - exponents)
            rounded = np.round(exact * scales) / scales
            shortest = np.where(rounded.astype(np.float32) == array, rounded, shortest)
    return shortest


def _to_array(proto: tensor_pb2.TensorProto) -> np.ndarray:
    if proto.dtype not in _SUPPORTED_TYPES:
        name = tensors.type_name(proto.dtype)
        raise InvalidRequestError(f"Failed to write JSON value for tensor type: {name}")
    return tensors.from_typed_fields(proto)


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


def _to_lists(name: str, array: np.ndarray) -> Any:
    """Convert an array to nested lists of numbers and strings."""
    if array.dtype == np.float32:
        return round_to_shortest(array).tolist()
    if array.dtype != np.object_:
        return array.tolist()
    convert = _to_base64 if name.endswith(BYTES_SUFFIX) else _to_text
    strings = np.empty(array.shape, np.object_)
    strings.ravel()[:] = [convert(value, name) for value in array.ravel()]
    return strings.tolist()


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
    return round_to_shortest(np.array(values, np.float32)).tolist()


def _to_json(document: dict[str, Any]) -> bytes:
    # NaN, Infinity and -Infinity are written as such, although strict parsers reject
    # them. TensorFlow Serving does the same (g3doc/api_rest.md, "JSON conformance").
    return json.dumps(document, ensure_ascii=False).encode()
