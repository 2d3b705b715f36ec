"""Classify, Regress and MultiInference on tf.Examples."""

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
def test_classify_answers_with_labels_or_scores_alone(predictions, signature, first):
    response = predictions.Classify(classification(signature), timeout=30)
    assert pairs_of(response.result)[0] == first
    assert len(response.result.classifications) == 3


@pytest.mark.parametrize("signature", ["sum", "column"])
def test_regress_answers_a_value_for_each_example(predictions, signature):
    response = predictions.Regress(regression(signature), timeout=30)
    assert [one.value for one in response.result.regressions] == [3, 7, 11]


def test_features_of_the_context_belong_to_every_example(predictions):
    given = input_pb2.Input()
    given.example_list_with_context.context.CopyFrom(example_of(8, 9))
    given.example_list_with_context.examples.add()
    given.example_list_with_context.examples.add().CopyFrom(example_of(1, 2))
    response = predictions.Regress(regression("sum", given), timeout=30)
    assert [one.value for one in response.result.regressions] == [17, 3]


def test_several_signatures_answer_the_same_examples(predictions):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    first, second = predictions.MultiInference(request, timeout=30).results
    assert pairs_of(first.classification_result)[2] == [("", 5), ("", 6)]
    values = [one.value for one in second.regression_result.regressions]
    assert values == [3, 7, 11]
    for one, signature in ((first, "scores"), (second, "sum")):
        spec = one.model_spec
        assert (spec.name, spec.version.value) == ("judge", 7)
        assert spec.signature_name == signature


@pytest.mark.parametrize("method", ["Classify", "MultiInference"])
def test_the_answer_names_the_default_signature(predictions, method):
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
def test_classify_refuses_what_is_no_classification(predictions, signature, details):
    code, told = rpc_error(predictions.Classify, classification(signature))
    assert (code, details in told) == (INVALID, True), told


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
def test_regress_refuses_what_is_no_regression(predictions, signature, details):
    code, told = rpc_error(predictions.Regress, regression(signature))
    assert (code, details in told) == (INVALID, True), told


@pytest.mark.parametrize("given", [input_pb2.Input(), input_of()])
def test_no_examples_are_refused(predictions, given):
    for call, request in (
        (predictions.Classify, classification(given=given)),
        (predictions.Regress, regression(given=given)),
        (predictions.MultiInference, multi_inference(("sum", REGRESS), given=given)),
    ):
        assert rpc_error(call, request) == (INVALID, "Input is empty.")


def test_an_example_without_the_feature_is_the_models_error(predictions):
    request = classification(request_input=input_of(example_of(1, 2, name="z")))
    code, told = rpc_error(predictions.Classify, request)
    assert (code, "Feature: x" in told) == (INVALID, True), told


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
def test_tasks_that_cannot_be_run_are_refused(predictions, request_, code, details):
    assert rpc_error(predictions.MultiInference, request_) == (code, details)


def test_tasks_of_several_models_are_refused(predictions):
    request = multi_inference(("scores", CLASSIFY), ("sum", REGRESS))
    request.tasks[1].model_spec.name = "multiply"
    assert rpc_error(predictions.MultiInference, request) == (
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )


def test_examples_for_no_model_are_refused(predictions):
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
