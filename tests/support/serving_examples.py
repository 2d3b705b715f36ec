"""SavedModels for Classify and Regress, and one written by TensorFlow 1."""

import tensorflow as tf
from serving_models import function
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

FEATURES = {"x": tf.io.FixedLenFeature([2], tf.float32)}


def example_of(*values, name="x"):
    """Build a `tf.train.Example` with one feature of floats."""
    example = tf.train.Example()
    example.features.feature[name].float_list.value.extend(values)
    return example


def input_of(*examples):
    """Build the input of Classify and Regress from examples."""
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))


INPUT = input_of(example_of(1, 2), example_of(3, 4), example_of(5, 6))


def classification(signature="", request_input=INPUT):
    """Build a Classify request for the model `judge`."""
    return _request(classification_pb2.ClassificationRequest, signature, request_input)


def regression(signature="sum", request_input=INPUT):
    """Build a Regress request for the model `judge`."""
    return _request(regression_pb2.RegressionRequest, signature, request_input)


def multi_inference(*pairs, name="judge", request_input=INPUT):
    """Build a MultiInference request with a task for each (signature, method)."""
    request = inference_pb2.MultiInferenceRequest(input=request_input)
    for signature, method in pairs:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = name
        task.model_spec.signature_name = signature
    return request


def pairs_of(result):
    """Return the labels with their scores, row by row."""
    return [
        [(entry.label, entry.score) for entry in row.classes]
        for row in result.classifications
    ]


def _request(request_class, signature, request_input):
    request = request_class(input=request_input)
    request.model_spec.name = "judge"
    request.model_spec.signature_name = signature
    return request


class Judge(tf.Module):
    """Signatures of every form that Classify and Regress accept or reject."""

    def __init__(self):
        super().__init__()

        def parsed(inputs):
            return tf.io.parse_example(inputs, FEATURES)["x"]

        def labels(x):
            return tf.tile([["low", "high"]], [tf.shape(x)[0], 1])

        forms = {
            "serving_default": lambda inputs: {
                "classes": labels(parsed(inputs)),
                "scores": parsed(inputs),
            },
            "scores": lambda inputs: {"scores": parsed(inputs)},
            "classes": lambda inputs: {"classes": labels(parsed(inputs))},
            "flat": lambda inputs: {"scores": parsed(inputs)[:, 0]},
            "double": lambda inputs: {"scores": tf.cast(parsed(inputs), tf.float64)},
            "short": lambda inputs: {"scores": parsed(inputs)[1:]},
            "uneven": lambda inputs: {
                "classes": labels(parsed(inputs)),
                "scores": parsed(inputs)[:, :1],
            },
            "three": lambda inputs: {
                "classes": labels(parsed(inputs)),
                "scores": parsed(inputs),
                "more": parsed(inputs),
            },
            "other": lambda inputs: {"probabilities": parsed(inputs)},
            "sum": lambda inputs: {"outputs": tf.reduce_sum(parsed(inputs), 1)},
            "column": lambda inputs: {
                "outputs": tf.reduce_sum(parsed(inputs), 1, keepdims=True)
            },
            "wide": lambda inputs: {"outputs": parsed(inputs)},
            "whole": lambda inputs: {
                "outputs": tf.cast(tf.reduce_sum(parsed(inputs), 1), tf.int32)
            },
        }
        text = ([None], tf.string)
        self.served = {
            name: function(form, inputs=text) for name, form in forms.items()
        }
        self.served["named"] = function(
            lambda text: {"scores": parsed(text)}, text=text
        )


def write_version_1(directory, version):
    """Save a model as TensorFlow 1 did: variables of a session, without objects."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        factor = v1.get_variable("factor", initializer=3.0, use_resource=False)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), -1.0
        )
        word = v1.placeholder(tf.string, [None], "word")
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        with v1.control_dependencies([v1.assert_non_negative(x, message="negative")]):
            checked = tf.identity(x)
        info = v1.saved_model.build_tensor_info
        method = "tensorflow/serving/predict"
        signature = v1.saved_model.build_signature_def
        builder = v1.saved_model.Builder(str(directory / str(version)))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature(
                    {"x": info(x)}, {"y": info(factor * x)}, method
                ),
                "strict": signature(
                    {"x": info(x)},
                    {"y": info(tf.identity(x)), "checked": info(checked)},
                    method,
                ),
                "look/up": signature(
                    {"a/word": info(word)},
                    {"number": info(table.lookup(word))},
                    method,
                ),
            },
            main_op=v1.tables_initializer(),
        )
        builder.save()
