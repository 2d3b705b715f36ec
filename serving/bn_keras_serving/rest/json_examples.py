"""Conversion of JSON requests for Classify and Regress to `tf.train.Example`.

The rules and error messages are those of TensorFlow Serving's `util/json_tensor.cc`.
"""

from collections.abc import Mapping
from typing import Any

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.common.messages import Example, Input
from bn_keras_serving.rest.json_text import (
    RepeatedKeys,
    invalid_value,
    is_binary,
    json_type,
    to_bytes,
)

_INT64 = range(-(2**63), 2**63)
# For each type of value, the field of a feature that it is written to.
_LIST_FIELDS = {
    bool: "int64_list",
    int: "int64_list",
    float: "float_list",
    str: "bytes_list",
    dict: "bytes_list",
}


def decode_examples(document: Mapping[str, Any]) -> bytes:
    """Return the examples of a request, with the context that they share.

    Args:
        document: Object with `examples`, a list of objects from feature name to value
            or list of values, and optionally `context`, one such object.

    Returns:
        A serialized `tensorflow.serving.Input`.

    Raises:
        InvalidRequestError: If the values cannot be converted to examples.
    """
    request_input = Input()
    has_context = "context" in document
    if has_context:
        context = _decode_example(document["context"])
        request_input.example_list_with_context.context.CopyFrom(context)
    if "examples" not in document:
        raise invalid_value(
            document,
            "When method is classify, key 'examples' is expected and was not found",
        )
    values = document["examples"]
    if not isinstance(values, list):
        raise invalid_value(document, "Expecting 'examples' value to be an list/array")
    if not values:
        raise invalid_value(document, "'examples' value is an empty array")
    target = (
        request_input.example_list_with_context
        if has_context
        else request_input.example_list
    )
    target.examples.extend(map(_decode_example, values))
    return request_input.SerializeToString()


def _decode_example(value: object) -> Any:
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"Example must be JSON object but got JSON {json_type(value)}"
        )
    example = Example()
    # Of repeated features, the last one counts, unlike elsewhere.
    pairs = value.pairs if isinstance(value, RepeatedKeys) else value.items()
    for name, content in pairs:
        feature = example.features.feature[name]
        feature.Clear()
        elements = content if isinstance(content, list) else [content]
        if set(map(type, elements)) == {float}:  # the most frequent case, and faster
            feature.float_list.value.extend(elements)
            continue
        for element in elements:
            _append(feature, name, element)
    return example


def _append(feature: Any, name: str, value: Any) -> None:
    field = _LIST_FIELDS.get(type(value))
    if field is None or (json_type(value) == "Object" and not is_binary(value)):
        raise InvalidRequestError(
            f"Feature: {name} has element with unexpected JSON type: {json_type(value)}"
        )
    previous = feature.WhichOneof("kind")
    if previous is not None and previous != field:
        raise InvalidRequestError(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{previous.removesuffix('_list')}"
        )
    values = getattr(feature, field).value
    if field == "bytes_list":
        values.append(to_bytes(value))
    elif field == "float_list":
        # protobuf rounds to float32, and values beyond its range to infinity.
        values.append(value)
    elif value in _INT64:
        values.append(int(value))
    else:
        raise InvalidRequestError(
            f"Feature: {name} has uint64_t element. Only int64_t is supported."
        )
