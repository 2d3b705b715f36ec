"""Write answers as JSON.

Knows no request, no model and no transport. The rules and words are those of
TensorFlow Serving's `util/json_tensor.cc`.
"""

import base64
import json
from collections.abc import Mapping

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError

BYTES_SUFFIX = "_bytes"
_WRITTEN = {
    *(types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_BOOL, types_pb2.DT_STRING),
    *(types_pb2.DT_INT8, types_pb2.DT_INT16, types_pb2.DT_INT32, types_pb2.DT_INT64),
    *(types_pb2.DT_UINT8, types_pb2.DT_UINT32, types_pb2.DT_UINT64),
}


def predictions(outputs: Mapping, by_row: bool) -> bytes:
    """Write what Predict answers.

    One output stands for itself, several make an object. Bytes are written as
    `{"b64": ...}` where the output's name ends with `_bytes`.

    Args:
        outputs: Output name to `TensorProto`.
        by_row: Whether the request had `instances`, which are answered by
            `predictions`, row by row; or `inputs`, answered by `outputs`.

    Raises:
        InvalidRequestError: JSON has no form for an output, or rows cannot be made.
    """
    if not outputs:
        raise InvalidRequestError("Cannot convert empty tensor map to JSON")
    arrays = {name: _array(proto) for name, proto in sorted(outputs.items())}
    if by_row:
        _check_rows(arrays)
    values = {name: _values(name, array) for name, array in arrays.items()}
    if len(values) == 1:
        (answer,) = values.values()
    elif by_row:
        rows = zip(*values.values(), strict=True)
        answer = [dict(zip(values, row, strict=True)) for row in rows]
    else:
        answer = values
    return _written({"predictions" if by_row else "outputs": answer})


def classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Write what Classify answers: pairs of label and score for each example.

    Raises:
        InvalidRequestError: There is none.
    """
    if not result.classifications:
        raise InvalidRequestError("Cannot convert empty ClassificationResults to JSON")
    return _written(
        {
            "results": [
                list(
                    zip(
                        [one.label for one in example.classes],
                        _floats([one.score for one in example.classes]),
                        strict=True,
                    )
                )
                for example in result.classifications
            ]
        }
    )


def regressions(result: regression_pb2.RegressionResult) -> bytes:
    """Write what Regress answers: a number for each example.

    Raises:
        InvalidRequestError: There is none.
    """
    if not result.regressions:
        raise InvalidRequestError("Cannot convert empty RegressionResults to JSON")
    return _written({"results": _floats([one.value for one in result.regressions])})


def error(details: str) -> bytes:
    """Write a refusal."""
    return _written({"error": details})


def _array(proto) -> np.ndarray:
    if proto.dtype not in _WRITTEN:
        name = tensors.type_name(proto.dtype)
        raise InvalidRequestError(f"Failed to write JSON value for tensor type: {name}")
    return tensors.from_response(proto)


def _check_rows(arrays: Mapping[str, np.ndarray]) -> None:
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


def _values(name: str, array: np.ndarray):
    """Return an array as numbers and strings in lists in lists."""
    if array.dtype == np.float32:
        return shortest(array).tolist()
    if array.dtype != np.object_:
        return array.tolist()
    write = _binary if name.endswith(BYTES_SUFFIX) else _text
    strings = np.empty(array.shape, np.object_)
    strings.ravel()[:] = [write(one, name) for one in array.ravel()]
    return strings.tolist()


def _binary(value: bytes, _) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"Tensor name: {name} has bytes that are not UTF-8; only an output whose "
            f"name ends with {BYTES_SUFFIX} is written in base64"
        ) from None


def shortest(array: np.ndarray) -> np.ndarray:
    """Return the doubles of fewest digits that are the same in float32.

    0.2 in float32 is 0.20000000298023224 as a double. NumPy's own writing of float32
    takes ten times as long.

    Args:
        array: Of float32.

    Returns:
        Of float64 and the same shape; `.astype(np.float32)` gives the array back.
    """
    exact = array.astype(np.float64)
    found = exact
    with np.errstate(all="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
        for digits in (9, 8, 7, 6):
            scales = 10.0 ** (digits - 1 - exponents)
            rounded = np.round(exact * scales) / scales
            found = np.where(rounded.astype(np.float32) == array, rounded, found)
    return found


def _floats(values: list[float]) -> list[float]:
    return shortest(np.array(values, np.float32)).tolist()


def _written(answer: dict) -> bytes:
    # NaN, Infinity and -Infinity are written, which strict parsers refuse: so does
    # TensorFlow Serving (g3doc/api_rest.md, "JSON conformance").
    return json.dumps(answer, ensure_ascii=False).encode()
