"""Turn JSON requests for Predict into tensors.

Knows no model beyond the inputs of one signature, and no transport. The rules and
words are those of TensorFlow Serving's `util/json_tensor.cc`.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.rest.json_text import is_binary, kind, refused, shown, to_bytes

_NUMBERS = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_UINT64: np.uint64,
    types_pb2.DT_BOOL: np.bool_,
}

Infos = Mapping[str, meta_graph_pb2.TensorInfo]


class Inputs(NamedTuple):
    """The tensors of a request, and whether they came as rows (`instances`)."""

    tensors: dict[str, tensor_pb2.TensorProto]
    by_row: bool


def signature_name(document: Mapping) -> str:
    """Return the signature that a document asks for; "" where it names none.

    Raises:
        InvalidRequestError: Not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise refused(
            document,
            "not formatted correctly. 'signature_name' key must be a string value.",
        )
    return name


def inputs(document: Mapping, infos: Infos) -> Inputs:
    """Return the tensors of a request for Predict.

    Args:
        document: With either `instances`, a list of rows, or `inputs`, columns.
        infos: Input name of the signature to its `TensorInfo`.

    Raises:
        InvalidRequestError: The values do not make tensors of the signature's types.
        UnsupportedError: JSON has no form for an input's type.
    """
    if "instances" in document and "inputs" in document:
        raise refused(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist ",
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise refused(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise refused(document, "No values in 'instances' array")
        return Inputs(_from_rows(rows, infos), True)
    if "inputs" in document:
        return Inputs(_from_columns(document["inputs"], infos), False)
    raise InvalidRequestError("Missing 'inputs' or 'instances' key")


def _from_rows(rows: list, infos: Infos) -> dict[str, tensor_pb2.TensorProto]:
    named = _is_object(rows[0])
    if not named and len(infos) > 1:
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
        ((name, info),) = infos.items()
        return {name: _rows_tensor(rows, info.dtype)}
    for number, row in enumerate(rows):
        _check_names(number, row, infos)
    return {
        name: _rows_tensor([row[name] for row in rows], info.dtype, name)
        for name, info in infos.items()
    }


def _check_names(number: int, row: dict, infos: Infos) -> None:
    for name in row:
        if name not in infos:
            status = f"INVALID_ARGUMENT: JSON object: does not have named input: {name}"
            raise _element_refused(number, status, name)
    if len(row) != len(infos):
        raise InvalidRequestError(
            f"Failed to process element: {number} of 'instances' list. JSON object: "
            f"{shown(row)} keys must be equal to: {','.join(sorted(infos))}"
        )


def _from_columns(values: object, infos: Infos) -> dict[str, tensor_pb2.TensorProto]:
    if not _is_object(values):
        if len(infos) > 1:
            raise InvalidRequestError(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        ((name, info),) = infos.items()
        return {name: _tensor(values, info.dtype)}
    for name in infos:
        if name not in values:
            raise InvalidRequestError(
                f"Missing named input: {name} in 'inputs' object."
            )
    return {name: _tensor(values[name], info.dtype) for name, info in infos.items()}


def _rows_tensor(rows: list, dtype: int, name: str = "") -> tensor_pb2.TensorProto:
    """Make one tensor of rows of one shape; an error tells the first row at fault."""
    try:
        return _stacked(rows, dtype)
    except _NoTensorError:
        pass
    first = None
    for number, row in enumerate(rows):
        shape = _claimed_shape(row)
        try:
            size = _count(row, 0, shape, dtype)
            first = first or (size, shape)
            if size != first[0]:
                raise InvalidRequestError(
                    f"Expecting tensor size: {first[0]} but got: {size}"
                )
            if shape != first[1]:
                raise InvalidRequestError(
                    f"Expecting shape {_listed(first[1])} but got: {_listed(shape)}"
                )
        except (InvalidRequestError, UnsupportedError) as error:
            unsupported = isinstance(error, UnsupportedError)
            status = "UNIMPLEMENTED" if unsupported else "INVALID_ARGUMENT"
            raise _element_refused(number, f"{status}: {error}", name) from None
    raise InvalidRequestError(f"Expecting rows of type: {tensors.type_name(dtype)}")


def _tensor(value: object, dtype: int) -> tensor_pb2.TensorProto:
    try:
        return _stacked(value, dtype)
    except _NoTensorError:
        _count(value, 0, _claimed_shape(value), dtype)
    raise refused(value, f"is not of expected type: {tensors.type_name(dtype)}")


class _NoTensorError(Exception):
    """Values that make no tensor; the slow way finds out why."""


def _stacked(value: Any, dtype: int) -> tensor_pb2.TensorProto:
    """Make a tensor, level by level: an image costs a quarter of its parsing."""
    shape: list[int] = []
    level: list[Any] = [value]
    types = {type(value)}
    while types == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == tensors.MAXIMUM_RANK:
            raise _NoTensorError
        shape.extend(sizes)
        level = list(chain.from_iterable(level))
        types = set(map(type, level))
    proto = tensor_pb2.TensorProto(dtype=dtype)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == types_pb2.DT_STRING:
        if not types <= {str, dict}:
            raise _NoTensorError
        try:
            proto.string_val.extend(map(to_bytes, level))
        except InvalidRequestError:
            raise _NoTensorError from None
    else:
        proto.tensor_content = _numbers(level, types, dtype).tobytes()
    return proto


def _numbers(values: list, types: set[type], dtype: int) -> np.ndarray:
    """Make an array of the values exactly; floats are rounded."""
    wanted = _NUMBERS.get(dtype)
    if wanted is None:
        raise _NoTensorError
    decimal = issubclass(wanted, np.floating)
    allowed = {int, float} if decimal else {bool if wanted is np.bool_ else int}
    if not types <= allowed:
        raise _NoTensorError
    try:
        if decimal:
            with np.errstate(over="ignore", under="ignore"):  # to infinity, to zero
                return np.array(values, np.float64).astype(wanted)
        return np.array(values, wanted)
    except OverflowError:
        raise _NoTensorError from None


def _count(value: object, level: int, shape: list[int], dtype: int) -> int:
    """Count the values of what claims to be a tensor, or say where it is none."""
    if not isinstance(value, list):
        if level != len(shape):
            raise refused(
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
    return sum(_count(one, level + 1, shape, dtype) for one in value)


def _check_value(value: object, dtype: int) -> None:
    if dtype == types_pb2.DT_STRING and isinstance(value, (str, dict)):
        to_bytes(value)
        return
    if dtype not in _NUMBERS and dtype != types_pb2.DT_STRING:
        raise UnsupportedError(
            f"Conversion of JSON Value: {shown(value)} to type: "
            f"{tensors.type_name(dtype)}"
        )
    try:
        if dtype in _NUMBERS:
            _numbers([value], {type(value)}, dtype)
            return
    except _NoTensorError:
        pass
    raise refused(
        value,
        f"Type: {kind(value)} is not of expected type: {tensors.type_name(dtype)}",
    )


def _claimed_shape(value: object) -> list[int]:
    """Return the shape that the first element of each list suggests."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > tensors.MAXIMUM_RANK:
            raise InvalidRequestError(
                "Encountered list at unexpected level: "
                f"{tensors.MAXIMUM_RANK}; a tensor has at most "
                f"{tensors.MAXIMUM_RANK} dimensions"
            )
        if not value:
            break
        value = value[0]
    return shape


def _is_object(value: object) -> TypeGuard[dict]:
    return isinstance(value, dict) and not is_binary(value)


def _element_refused(number: int, status: str, name: str) -> InvalidRequestError:
    key = f" key: {name}" if name else ""
    return InvalidRequestError(
        f"Failed to process element: {number}{key} of 'instances' list. Error: {status}"
    )


def _listed(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
