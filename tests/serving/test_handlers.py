"""Classify, Regress and MultiInference with signatures of every form."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from serving_examples import (
    Judge,
    classification,
    example_of,
    input_of,
    multi_inference,
    pairs_of,
    regression,
    write_version_1,
)
from serving_models import ROWS, write
from tensorflow_serving.apis import (
    input_pb2,
    predict_pb2,
)

from bn_keras_serving.common.errors import (
    ExecutionError,
    InvalidRequestError,
    UnsupportedError,
)
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.dispatch import handlers
from bn_keras_serving.dispatch.examples import CLASSIFY, REGRESS
from bn_keras_serving.servable.servable import Servable

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def judge_path(tmp_path_factory):
    return write(Judge(), tmp_path_factory.mktemp("judge"), 7)


@pytest.fixture(scope="module")
def judge(judge_path):
    return Servable(7, judge_path)


@pytest.fixture(scope="module")
def version_1(tmp_path_factory):
    """A model that TensorFlow 1 has saved."""
    directory = tmp_path_factory.mktemp("version_1")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        write_version_1(directory, 1)
        return Servable(1, directory / "1")


def values_of(result):
    return [regression.value for regression in result.regressions]


def test_classify_pairs_each_label_with_its_score(judge):
    response = handlers.classify(judge, classification())
    assert pairs_of(response.result) == [
        [("low", 1), ("high", 2)],
        [("low", 3), ("high", 4)],
        [("low", 5), ("high", 6)],
    ]
    spec = response.model_spec
    assert (spec.name, spec.version.value) == ("judge", 7)
    assert spec.signature_name == "serving_default"


@pytest.mark.parametrize(
    ("signature", "first"),
    [("scores", [("", 1), ("", 2)]), ("classes", [("low", 0), ("high", 0)])],
)
def test_classify_answers_with_only_labels_or_only_scores(judge, signature, first):
    response = handlers.classify(judge, classification(signature))
    assert pairs_of(response.result)[0] == first
    assert len(response.result.classifications) == 3


@pytest.mark.parametrize("signature", ["sum", "column"])
def test_regress_answers_a_value_for_each_example(judge, signature):
    response = handlers.regress(judge, regression(signature))
    assert values_of(response.result) == [
        3,
        7,
        11,
    ]


def test_every_example_gets_the_features_of_the_context(judge):
    request_input = input_pb2.Input()
    examples = request_input.example_list_with_context
    examples.context.CopyFrom(example_of(8, 9))
    examples.examples.add()
    examples.examples.add().CopyFrom(example_of(1, 2))
    response = handlers.regress(judge, regression("sum", request_input))
    assert values_of(response.result) == [17, 3]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("named", "No classification inputs found in SignatureDef"),
        ("other", 'to contain at least one of "classes" or "scores"'),
        ("three", "Expected one or two output Tensors, found 3"),
        ("flat", r"Expected Tensor shape: \[batch_size num_classes\] but got \[3\]"),
        ("double", "Expected scores Tensor of DT_FLOAT. Got: float64"),
        ("short", "Expected scores output batch size of 3. Got: 2"),
        ("uneven", r"should match in dim_size\(1\). Got 2 vs. 1"),
    ],
)
def test_classify_rejects_other_signatures(judge, signature, message):
    with pytest.raises(InvalidRequestError, match=message):
        handlers.classify(judge, classification(signature))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("named", "No regression inputs found in SignatureDef"),
        ("scores", "No regression outputs found in SignatureDef"),
        ("serving_default", "Expected one output Tensor."),
        ("wide", r"either \[batch_size\] or \[batch_size, 1\] but got \[3,2\]"),
        ("whole", "Expected output Tensor of DT_FLOAT.  Got: int32"),
    ],
)
def test_regress_rejects_other_signatures(judge, signature, message):
    with pytest.raises(InvalidRequestError, match=message):
        handlers.regress(judge, regression(signature))


@pytest.mark.parametrize("request_input", [input_pb2.Input(), input_of()])
def test_a_request_without_examples_is_rejected(judge, request_input):
    with pytest.raises(InvalidRequestError, match=r"^Input is empty\.$"):
        handlers.classify(judge, classification(request_input=request_input))


def test_several_signatures_answer_the_same_examples(judge):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    response = handlers.multi_inference(judge, request)
    first, second = response.results
    assert pairs_of(first.classification_result)[2] == [("", 5), ("", 6)]
    assert values_of(second.regression_result) == [3, 7, 11]
    assert [result.model_spec.signature_name for result in response.results] == [
        "scores",
        "sum",
    ]


def test_tasks_for_several_models_are_rejected(judge):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    request.tasks[1].model_spec.name = "another"
    with pytest.raises(InvalidRequestError, match="must access the same model name"):
        handlers.multi_inference(judge, request)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (
            multi_inference(("sum", REGRESS), ("sum", REGRESS)),
            InvalidRequestError,
            "Duplicate evaluation of signature: sum",
        ),
        (
            multi_inference(("nothing", REGRESS)),
            InvalidRequestError,
            "Requested signature not found in model graph: nothing",
        ),
        (
            multi_inference(("sum", "tensorflow/serving/predict")),
            UnsupportedError,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            multi_inference(("sum", REGRESS), name=""),
            InvalidRequestError,
            "empty model name",
        ),
        (
            multi_inference(("sum", REGRESS), request_input=input_of()),
            InvalidRequestError,
            "is empty",
        ),
    ],
)
def test_an_invalid_task_is_rejected(judge, request_, error, message):
    with pytest.raises(error, match=message):
        handlers.multi_inference(judge, request_)


def test_an_example_without_a_feature_is_an_error_of_the_model(judge):
    with pytest.raises(ExecutionError, match="Feature: x") as raised:
        handlers.classify(
            judge, classification(request_input=input_of(example_of(1, 2, name="z")))
        )
    assert "File" not in str(raised.value), "the model's source must not show"


def test_a_model_of_tensorflow_1_is_served(version_1):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(ROWS))
    answer = handlers.predict(version_1, request)
    np.testing.assert_array_equal(answer.outputs["y"].float_val, 3 * ROWS.ravel())

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "look/up"
    request.inputs["a/word"].CopyFrom(tf.make_tensor_proto([b"b", b"?"]))
    answer = handlers.predict(version_1, request)
    assert list(answer.outputs["number"].float_val) == [2, -1]


def test_arrays_are_answered_with_arrays(version_1):
    assert version_1.input_types["serving_default"] == {
        "x": tf.float32.as_datatype_enum
    }
    spec = predict_pb2.PredictRequest().model_spec
    outputs = handlers.predict_arrays(version_1, spec, {"x": ROWS})
    np.testing.assert_array_equal(outputs["y"], 3 * ROWS)
    spec.signature_name = "look/up"
    words = {"a/word": np.array([b"b", b"?"], object)}
    outputs = handlers.predict_arrays(version_1, spec, words)
    assert outputs["number"].tolist() == [2, -1]


def test_tensors_are_encoded_as_bytes_on_request(judge):
    request = predict_pb2.PredictRequest()
    serialized = [example_of(1, 2).SerializeToString()]
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(serialized))
    answer = handlers.predict(judge, request, tensor_content=True)
    expected = np.array([[1, 2]], np.float32).tobytes()
    assert answer.outputs["scores"].tensor_content == expected
    assert list(answer.outputs["classes"].string_val) == [b"low", b"high"]


def test_outputs_that_are_filtered_out_are_not_computed(version_1):
    signature = version_1.signature("strict")
    assert signature.run({"x": -ROWS}, ["y"])["y"].tolist() == (-ROWS).tolist()
    with pytest.raises(ExecutionError) as raised:
        signature.run({"x": -ROWS})
    # Without the place where the graph was written.
    assert str(raised.value).startswith("assertion failed: [negative")


def test_limits_apply_to_examples_too(judge_path):
    limited = Servable(7, judge_path, limits=Limits(elements=2, string_bytes=8))
    with pytest.raises(InvalidRequestError, match="must have at most 2 elements"):
        handlers.classify(limited, classification())
    one_example = input_of(example_of(1, 2))
    with pytest.raises(InvalidRequestError, match="must have at most 8 bytes"):
        handlers.regress(limited, regression("sum", one_example))
