"""Classify, Regress and MultiInference with `tf.train.Example`."""

import grpc
import pytest
from serving_examples import (
    classification,
    example_of,
    input_of,
    multi_inference,
    pairs_of,
    regression,
)
from serving_models import rpc_error
from tensorflow_serving.apis import (
    classification_pb2,
    input_pb2,
    regression_pb2,
)

from conformance.endpoint import INVALID, NOT_FOUND
from conformance.models import CLASSIFY, REGRESS


def values_of(result):
    return [regression.value for regression in result.regressions]


def test_classify_pairs_each_label_with_its_score(predictions):
    response = predictions.Classify(classification(), timeout=30)
    assert pairs_of(response.result) == [
        [("low", 1), ("high", 2)],
        [("low", 3), ("high", 4)],
        [("low", 5), ("high", 6)],
    ]


@pytest.mark.parametrize(
    ("signature", "first"),
    [("scores", [("", 1), ("", 2)]), ("classes", [("low", 0), ("high", 0)])],
)
def test_classify_answers_with_only_labels_or_only_scores(
    predictions, signature, first
):
    response = predictions.Classify(classification(signature), timeout=30)
    assert pairs_of(response.result)[0] == first
    assert len(response.result.classifications) == 3


@pytest.mark.parametrize("signature", ["sum", "column"])
def test_regress_answers_a_value_for_each_example(predictions, signature):
    response = predictions.Regress(regression(signature), timeout=30)
    assert values_of(response.result) == [
        3,
        7,
        11,
    ]


def test_every_example_gets_the_features_of_the_context(predictions):
    request_input = input_pb2.Input()
    examples = request_input.example_list_with_context
    examples.context.CopyFrom(example_of(8, 9))
    examples.examples.add()
    examples.examples.add().CopyFrom(example_of(1, 2))
    response = predictions.Regress(regression("sum", request_input), timeout=30)
    assert values_of(response.result) == [17, 3]


def test_several_signatures_answer_the_same_examples(predictions):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    first, second = predictions.MultiInference(request, timeout=30).results
    assert pairs_of(first.classification_result)[2] == [("", 5), ("", 6)]
    assert values_of(second.regression_result) == [3, 7, 11]
    for result, signature in ((first, "scores"), (second, "sum")):
        spec = result.model_spec
        assert (spec.name, spec.version.value) == ("judge", 7)
        assert spec.signature_name == signature


@pytest.mark.parametrize("method", ["Classify", "MultiInference"])
def test_the_response_names_the_default_signature(predictions, method):
    if method == "Classify":
        spec = predictions.Classify(classification(), timeout=30).model_spec
    else:
        response = predictions.MultiInference(
            multi_inference(("", CLASSIFY)), timeout=30
        )
        spec = response.results[0].model_spec
    # servables/tensorflow/util.cc, MakeModelSpec.
    assert (spec.name, spec.version.value) == ("judge", 7)
    assert spec.signature_name == "serving_default"


@pytest.mark.parametrize(
    ("signature", "details"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("named", "No classification inputs found in SignatureDef: "),
        ("other", 'to contain at least one of "classes" or "scores"'),
        ("three", "Expected one or two output Tensors, found 3"),
        ("flat", "Expected Tensor shape: [batch_size num_classes] but got [3]"),
        ("double", "Expected scores Tensor of DT_FLOAT. Got: "),
        ("short", "Expected scores output batch size of 3. Got: 2"),
        ("uneven", "should match in dim_size(1). Got 2 vs. 1"),
    ],
)
def test_classify_rejects_other_signatures(predictions, signature, details):
    code, message = rpc_error(predictions.Classify, classification(signature))
    assert (code, details in message) == (INVALID, True), message


@pytest.mark.parametrize(
    ("signature", "details"),
    [
        ("nothing", "No signature was found with the name: nothing"),
        ("named", "No regression inputs found in SignatureDef: "),
        ("scores", "No regression outputs found in SignatureDef: "),
        ("serving_default", "Expected one output Tensor."),
        ("wide", "either [batch_size] or [batch_size, 1] but got [3,2]"),
        ("whole", "Expected output Tensor of DT_FLOAT.  Got: "),
    ],
)
def test_regress_rejects_other_signatures(predictions, signature, details):
    code, message = rpc_error(predictions.Regress, regression(signature))
    assert (code, details in message) == (INVALID, True), message


@pytest.mark.parametrize("request_input", [input_pb2.Input(), input_of()])
def test_a_request_without_examples_is_rejected(predictions, request_input):
    for call, request in (
        (predictions.Classify, classification(request_input=request_input)),
        (predictions.Regress, regression(request_input=request_input)),
        (
            predictions.MultiInference,
            multi_inference(("sum", REGRESS), request_input=request_input),
        ),
    ):
        assert rpc_error(call, request) == (INVALID, "Input is empty.")


def test_an_example_without_a_feature_is_an_error_of_the_model(predictions):
    request = classification(request_input=input_of(example_of(1, 2, name="z")))
    code, message = rpc_error(predictions.Classify, request)
    assert (code, "Feature: x" in message) == (INVALID, True), message


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (
            multi_inference(("sum", REGRESS), ("sum", REGRESS)),
            INVALID,
            "Duplicate evaluation of signature: sum",
        ),
        (
            multi_inference(("nothing", REGRESS)),
            INVALID,
            "Requested signature not found in model graph: nothing",
        ),
        (
            multi_inference(("sum", "tensorflow/serving/predict")),
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (multi_inference(), INVALID, "ModelSpec has no name specified."),
    ],
    ids=["twice", "unknown", "another method", "none"],
)
def test_tasks_that_cannot_be_run_are_rejected(predictions, request_, code, details):
    assert rpc_error(predictions.MultiInference, request_) == (code, details)


def test_tasks_for_several_models_are_rejected(predictions):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    request.tasks[1].model_spec.name = "multiply"
    assert rpc_error(predictions.MultiInference, request) == (
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )


def test_examples_without_a_model_are_rejected(predictions):
    for call, request in (
        (predictions.Classify, classification_pb2.ClassificationRequest()),
        (predictions.Regress, regression_pb2.RegressionRequest()),
    ):
        assert rpc_error(call, request) == (INVALID, "Missing ModelSpec")
        request.model_spec.name = "other"
        assert rpc_error(call, request) == (
            NOT_FOUND,
            "Servable not found for request: Latest(other)",
        )
