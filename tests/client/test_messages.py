"""The client's own messages of TensorFlow Serving's protocol."""

import subprocess
import sys

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from serving_descriptors import DESCRIPTORS, descriptor_set
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

import bn_keras_serving
from bn_keras_serving.common import messages

NOT_NEEDED = ("tensorflow", "keras", "rich", "ml_dtypes")


def run(code):
    """Run code in another process; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.fast
def test_the_descriptors_are_those_of_the_installed_packages():
    committed = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    installed = descriptor_set()
    assert [file.name for file in committed.file] == [
        file.name for file in installed.file
    ]
    for file, expected in zip(committed.file, installed.file, strict=True):
        assert file == expected, (
            f"{file.name} has changed. Run python tests/support/serving_descriptors.py."
        )


@pytest.mark.fast
def test_enumerations_are_those_of_tensorflow():
    assert dict(types_pb2.DataType.items()) == messages.DATA_TYPES
    states = get_model_status_pb2.ModelVersionStatus.State.items()
    assert {number: name for name, number in states} == messages.VERSION_STATES


@pytest.mark.fast
def test_the_messages_live_beside_those_of_tensorflow():
    assert messages.PredictRequest is not predict_pb2.PredictRequest
    request = messages.PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    request.inputs["x"].tensor_content = b"1234"
    theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert theirs.inputs["x"].tensor_content == b"1234"
    assert messages.PredictRequest.FromString(theirs.SerializeToString()) == request
    assert (
        tf.train.Example.DESCRIPTOR.full_name == messages.Example.DESCRIPTOR.full_name
    )


@pytest.mark.slow
def test_tensorflow_can_be_imported_after_the_client():
    code = (
        "import bn_keras_serving.client as client\n"
        "from bn_keras_serving.common import messages\n"
        "from tensorflow_serving.apis import predict_pb2\n"
        "ours = messages.PredictRequest(output_filter=['y'])\n"
        "theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())\n"
        "print(*theirs.output_filter)"
    )
    assert run(code) == "y\n"


@pytest.mark.parametrize(
    "statement",
    [
        "import bn_keras_serving.client",
        "from bn_keras_serving import PredictionClient",
        "from bn_keras_serving import AsyncPredictionClient, Tls",
    ],
)
def test_importing_the_client_imports_no_tensorflow(statement):
    code = (
        f"import sys; {statement}; print(sorted(set(sys.modules) & {set(NOT_NEEDED)}))"
    )
    assert run(code) == "[]\n"


@pytest.mark.fast
def test_the_package_offers_its_public_names_and_no_others():
    assert set(bn_keras_serving.__all__) <= set(dir(bn_keras_serving))
    for name in bn_keras_serving.__all__:
        assert getattr(bn_keras_serving, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'PredictionServers'"):
        bn_keras_serving.PredictionServers  # noqa: B018
