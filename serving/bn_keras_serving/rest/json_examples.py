"""Turn JSON requests for Classify and Regress into examples.

Knows no model and no transport. The rules and words are those of TensorFlow Serving's
`util/json_tensor.cc`.
"""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest.json_text import is_binary, kind, refused, to_bytes

_INT64 = range(-(2**63), 2**63)
# The list of a feature that a value goes into, by the value's type.
_LISTS = {
    bool: "int64_list",
    int: "int64_list",
    float: "float_list",
    str: "bytes_list",
    dict: "bytes_list",
}


def examples(document: Mapping) -> input_pb2.Input:
    """Return the examples of a request, with the context that all of them share.

    Args:
        document: With `examples`, a list of objects from feature name to value or list
            of values, and perhaps `context`, one such object.

    Raises:
        InvalidRequestError: They are no examples.
    """
    given = input_pb2.Input()
    shared = "context" in document
    if shared:
        context = _example(document["context"])
        given.example_list_with_context.context.CopyFrom(context)
    if "examples" not in document:
        raise refused(
            document,
            "When method is classify, key 'examples' is expected and was not found",
        )
    found = document["examples"]
    if not isinstance(found, list):
        raise refused(document, "Expecting 'examples' value to be an list/array")
    if not found:
        raise refused(document, "'examples' value is an empty array")
    target = given.example_list_with_context if shared else given.example_list
    target.examples.extend(map(_example, found))
    return given


def _example(value: object) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"Example must be JSON object but got JSON {kind(value)}"
        )
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for one in content if isinstance(content, list) else [content]:
            _add(feature, name, one)
    return example


def _add(feature: feature_pb2.Feature, name: str, value: Any) -> None:
    list_name = _LISTS.get(type(value))
    if list_name is None or (kind(value) == "Object" and not is_binary(value)):
        raise InvalidRequestError(
            f"Feature: {name} has element with unexpected JSON type: {kind(value)}"
        )
    before = feature.WhichOneof("kind")
    if before is not None and before != list_name:
        raise InvalidRequestError(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{before.removesuffix('_list')}"
        )
    values = getattr(feature, list_name).value
    if list_name == "bytes_list":
        values.append(to_bytes(value))
    elif list_name == "float_list":
        # protobuf rounds to float32, and to infinity what is beyond it.
        values.append(value)
    elif value in _INT64:
        values.append(int(value))
    else:
        raise InvalidRequestError(
            f"Feature: {name} has uint64_t element. Only int64_t is supported."
        )
