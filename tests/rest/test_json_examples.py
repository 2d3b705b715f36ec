"""JSON requests for Classify and Regress: the cases of `json_tensor_test.cc`."""

import math

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import input_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest import json_examples, json_text

pytestmark = pytest.mark.fast


def read(text):
    serialized = json_examples.decode_examples(json_text.parse(text.encode()))
    return input_pb2.Input.FromString(serialized)


def features(example):
    """Return `{name: (kind, values)}` of an example."""
    return {
        name: (
            feature.WhichOneof("kind"),
            list(getattr(feature, feature.WhichOneof("kind")).value),
        )
        for name, feature in example.features.feature.items()
    }


def test_examples_without_context():
    decoded = read(
        """{"examples": [
            {"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": 20},
            {"names": ["baz"], "ratings": 6.0}
        ]}"""
    )
    expected = text_format.Parse(
        """example_list {
            examples { features {
                feature { key: "names"
                    value { bytes_list { value: "foo" value: "bar" } } }
                feature { key: "ratings" value { float_list { value: [8, 9] } } }
                feature { key: "age" value { int64_list { value: 20 } } }
            } }
            examples { features {
                feature { key: "names" value { bytes_list { value: "baz" } } }
                feature { key: "ratings" value { float_list { value: 6 } } }
            } }
        }""",
        input_pb2.Input(),
    )
    assert decoded == expected


def test_all_examples_share_the_context():
    decoded = read(
        """{
            "signature_name": "custom",
            "context": {"query": "pizza", "location": ["sfo"]},
            "examples": [{"a": 1}, {"a": -Infinity}]
        }"""
    )
    assert decoded.WhichOneof("kind") == "example_list_with_context"
    examples = decoded.example_list_with_context
    assert features(examples.context) == {
        "query": ("bytes_list", [b"pizza"]),
        "location": ("bytes_list", [b"sfo"]),
    }
    assert [features(example) for example in examples.examples] == [
        {"a": ("int64_list", [1])},
        {"a": ("float_list", [-math.inf])},
    ]


def test_each_type_of_value_goes_into_its_list():
    decoded = read(
        """{"examples": [{
            "mixed": [1, true, false, -9223372036854775808],
            "binary": ["text", {"b64": "/w=="}],
            "floats": [1.5, NaN, 1e300],
            "none": []
        }]}"""
    )
    (example,) = decoded.example_list.examples
    assert example.features.feature["none"].WhichOneof("kind") is None
    del example.features.feature["none"]
    decoded = features(example)
    assert decoded["mixed"] == ("int64_list", [1, 1, 0, -(2**63)])
    assert decoded["binary"] == ("bytes_list", [b"text", b"\xff"])
    assert decoded["floats"][0] == "float_list"
    assert decoded["floats"][1][0] == 1.5
    assert math.isnan(decoded["floats"][1][1])
    assert decoded["floats"][1][2] == math.inf


def test_of_repeated_features_the_last_one_counts_but_of_lists_the_first():
    # json_tensor.cc assigns each feature to its name, and looks up the other keys.
    decoded = read(
        """{
            "examples": [{"a": 1, "b": 2.5, "a": ["x", "y"]}],
            "examples": [{"a": 3}], "context": {"c": 1, "c": 2}, "context": 5
        }"""
    ).example_list_with_context
    (example,) = decoded.examples
    assert features(example) == {
        "a": ("bytes_list", [b"x", b"y"]),
        "b": ("float_list", [2.5]),
    }
    assert features(decoded.context) == {"c": ("int64_list", [2])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "key 'examples' is expected and was not found"),
        ('{"context": [1]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": {"a": 1}}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [[1]]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [true]}', "Example must be JSON object but got JSON True"),
        (
            '{"examples": [{"a": [10, null]}]}',
            "Feature: a has element with unexpected JSON type: Null",
        ),
        (
            '{"examples": [{"a": [10, {"test": 10}]}]}',
            "Feature: a has element with unexpected JSON type: Object",
        ),
        (
            '{"examples": [{"a": [[10], 20]}]}',
            "Feature: a has element with unexpected JSON type: Array",
        ),
        (
            '{"examples": [{"a": [10, 10.0]}]}',
            "Unexpected element type in feature: a expecting type: int64",
        ),
        ('{"examples": [{"a": [1.5, "b"]}]}', "feature: a expecting type: float"),
        ('{"examples": [{"a": ["b", true]}]}', "feature: a expecting type: bytes"),
        (
            '{"examples": [{"a": [20, 18446744073709551603]}]}',
            "Feature: a has uint64_t element. Only int64_t is supported.",
        ),
        ('{"examples": [{"a": {"b64": "!"}}]}', "Unable to base64 decode"),
        (
            '{"examples": [{"a": {"b64": "", "b64": ""}}]}',
            "Feature: a has element with unexpected JSON type: Object",
        ),
        ('{"examples": [{"a": null, "a": 1}]}', "unexpected JSON type: Null"),
    ],
)
def test_invalid_examples_are_rejected_as_in_tensorflow_serving(text, message):
    with pytest.raises(InvalidRequestError) as raised:
        read(text)
    assert message in str(raised.value)
