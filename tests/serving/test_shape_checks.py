"""Which shapes reach the graph: all, unless the process would end."""

import numpy as np
import pytest
import tensorflow as tf
from export_checks import image_model
from serving_examples import FEATURES, INPUT, example_of, input_of, regression
from serving_models import ROWS, Model, function, predict_log, write
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from bn_keras.export import export_saved_model
from bn_keras_serving.common.errors import ExecutionError, InvalidRequestError
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.dispatch import handlers
from bn_keras_serving.dispatch.warmup import warm_up
from bn_keras_serving.servable.servable import Servable

v1 = tf.compat.v1
IMAGE = np.ones((8, 8, 3), np.float32)
BATCHING = BatchingParameters(
    max_batch_size=4, batch_timeout_micros=1000, allowed_batch_sizes=(4,)
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(Model(2), tmp_path_factory.mktemp("model"), 1)


@pytest.fixture(scope="module")
def servables(path):
    return {
        checks: Servable(1, path, loading=Loading(shape_checks=checks))
        for checks in ("auto", "strict", "off")
    }


@pytest.fixture(scope="module")
def half_plus_two(tmp_path_factory):
    """Save a model like those of TensorFlow Serving's examples.

    Its placeholder for numbers has no shape, and `regress` declares a type that is not
    that of its placeholder.
    """
    path = tmp_path_factory.mktemp("half_plus_two") / "123"
    with v1.Graph().as_default(), v1.Session() as session:
        a = v1.get_variable("a", initializer=0.5, use_resource=False)
        serialized = v1.placeholder(tf.string, name="tf_example")
        parsed = tf.io.parse_example(serialized, FEATURES)["x"]
        x = v1.placeholder(tf.float32, name="x")
        session.run(v1.global_variables_initializer())
        predict = v1.saved_model.predict_signature_def({"x": x}, {"y": a * x + 2.0})
        inputs, outputs = {"inputs": serialized}, {"outputs": a * parsed[:, 0] + 2.0}
        regress = v1.saved_model.predict_signature_def(inputs, outputs)
        regress.inputs["inputs"].dtype = tf.float32.as_datatype_enum
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": predict, "regress": regress}
        )
        builder.save()
    return path


@pytest.mark.parametrize("checks", ["auto", "off"])
@pytest.mark.parametrize("rows", [ROWS[0], ROWS[:0], ROWS[0, 0], ROWS[None]])
def test_the_graph_decides_where_no_operation_aborts(servables, checks, rows):
    signature = servables[checks].signature("pair")
    rows = np.asarray(rows)
    outputs = signature.run({"a": rows, "b": ROWS[:1]})
    np.testing.assert_array_equal(outputs["sum"], rows + ROWS[:1])
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "pair"
    request.inputs["a"].CopyFrom(tf.make_tensor_proto(rows))
    request.inputs["b"].CopyFrom(tf.make_tensor_proto(ROWS[:1]))
    answer = handlers.predict(servables[checks], request)
    assert tf.make_ndarray(answer.outputs["sum"]).tolist() == outputs["sum"].tolist()


@pytest.mark.parametrize("checks", ["auto", "off"])
def test_the_error_of_the_graph_is_answered(servables, checks):
    with pytest.raises(ExecutionError, match="Invalid reduction dimension") as raised:
        servables[checks].signature().run({"x": ROWS[0]})
    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize("checks", ["auto", "strict"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE, r"Received: shape \(8, 8, 3\)\. Add a leading batch axis"),
        (np.float32(1), r"Received: shape \(\)\. Reshape it"),
        (IMAGE[None, :7], r"Received: shape \(1, 7, 8, 3\)\. Reshape it"),
        (IMAGE[None][:0], r"at least one example\. Received: shape \(0, 8, 8, 3\)"),
    ],
)
def test_shapes_are_checked_before_a_convolution(servables, checks, image, message):
    signature = servables[checks].signature("image")
    with pytest.raises(InvalidRequestError, match=message):
        signature.run({"x": np.asarray(image)})
    with pytest.raises(InvalidRequestError, match=message):
        signature.parse({"x": tf.make_tensor_proto(image)})
    assert set(signature.run({"x": IMAGE[None]})["y"].ravel()) == {27}


def test_without_checks_an_empty_batch_reaches_a_convolution(servables):
    signature = servables["off"].signature("image")
    # The other axes are wrong: oneDNN answers with the shape of the input.
    assert len(signature.run({"x": IMAGE[None][:0]})["y"]) == 0


def test_strict_checks_hold_for_every_signature(servables):
    for rows in (ROWS[0], ROWS[:0], ROWS[0, 0]):
        with pytest.raises(InvalidRequestError, match='Input "a"'):
            servables["strict"].signature("pair").run(
                {"a": np.asarray(rows), "b": ROWS}
            )


def test_batched_signatures_are_checked_since_requests_share_a_batch(path):
    servable = Servable(1, path, BATCHING, loading=Loading(shape_checks="off"))
    with pytest.raises(InvalidRequestError, match=r"Received: shape \(4,\)"):
        servable.signature("pair").run({"a": ROWS[0], "b": ROWS})


def test_an_example_without_pixels_is_rejected_where_it_would_abort(tmp_path):
    model = tf.Module()
    model.served = {
        "serving_default": function(
            lambda x: {"png": tf.io.encode_png(x)}, x=([4, None, 3], tf.uint8)
        )
    }
    signature = Servable(1, write(model, tmp_path, 1)).signature()
    with pytest.raises(InvalidRequestError, match="must contain at least one value"):
        signature.run({"x": np.zeros((4, 0, 3), np.uint8)})
    assert (
        signature.run({"x": np.zeros((4, 1, 3), np.uint8)})["png"].item()[1:4] == b"PNG"
    )


@pytest.mark.parametrize("checks", ["auto", "strict", "off"])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (), (3,), (1, 2, 3)])
def test_an_input_of_unknown_rank_takes_every_shape(half_plus_two, checks, shape):
    servable = Servable(1, half_plus_two, loading=Loading(shape_checks=checks))
    outputs = servable.signature().run({"x": np.ones(shape, np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.full(shape, 2.5))


@pytest.mark.parametrize("checks", ["auto", "strict", "off"])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_input_of_unknown_rank_is_refused_where_an_operation_aborts(
    tmp_path, checks, hidden
):
    kernel = tf.ones((3, 3, 3, 2))
    convolve = tf.function(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"))
    model = tf.Module()
    model.served = {
        "serving_default": function(
            lambda x: {
                "y": tf.cond(tf.size(x) > 0, lambda: convolve(x), lambda: x)
                if hidden
                else tf.nn.conv2d(x, kernel, 1, "SAME")
            },
            x=(None, tf.float32),
        )
    }
    path = write(model, tmp_path, 1)
    loading = Loading(shape_checks=checks)
    if checks == "off":
        outputs = Servable(1, path, loading=loading).signature().run({"x": IMAGE[None]})
        assert outputs["y"].shape == (1, 8, 8, 2)
        return
    with pytest.raises(ValueError, match="unknown rank and the operation Conv2D"):
        Servable(1, path, loading=loading)


def test_strings_and_inputs_that_the_graph_checks_may_have_no_rank(tmp_path):
    kernel = tf.ones((3, 3, 3, 2))

    def convolve(x):
        return {"y": tf.nn.conv2d(x, kernel, 1, "SAME")}

    model = tf.Module()
    model.served = {
        "serving_default": function(
            lambda x: convolve(tf.ensure_shape(x, (None, 8, 8, 3))),
            x=(None, tf.float32),
        ),
        "strings": function(
            lambda x: convolve(tf.io.parse_tensor(x, tf.float32)), x=(None, tf.string)
        ),
    }
    servable = Servable(1, write(model, tmp_path, 1))
    outputs = servable.signature().run({"x": IMAGE[None]})
    assert outputs["y"].shape == (1, 8, 8, 2)
    content = np.array(tf.io.serialize_tensor(IMAGE[None]).numpy(), np.object_)
    outputs = servable.signature("strings").run({"x": content})
    assert outputs["y"].shape == (1, 8, 8, 2)


@pytest.mark.parametrize("batching", [None, BATCHING])
def test_a_shape_that_is_not_declared_is_unknown(half_plus_two, tmp_path, batching):
    saved = saved_model_pb2.SavedModel.FromString(
        (half_plus_two / "saved_model.pb").read_bytes()
    )
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    signature.inputs["x"].ClearField("tensor_shape")
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    (tmp_path / "variables").symlink_to(half_plus_two / "variables")
    strict = Loading(shape_checks="strict")
    signature = Servable(1, tmp_path, batching, loading=strict).signature()
    assert signature.run({"x": np.ones(3, np.float32)})["y"].tolist() == [2.5] * 3


@pytest.mark.parametrize("batching", [None, BATCHING])
def test_the_type_of_the_graph_counts_where_the_signature_declares_another(
    half_plus_two, batching
):
    servable = Servable(1, half_plus_two, batching)
    assert servable.input_types["regress"] == {"inputs": tf.float32.as_datatype_enum}
    response = handlers.regress(servable, regression("regress", INPUT))
    values = [entry.value for entry in response.result.regressions]
    assert values == [2.5, 3.5, 4.5]
    with pytest.raises(InvalidRequestError, match="to be string but float is provided"):
        servable.signature("regress").run({"inputs": np.ones(1, np.float32)})


def test_an_export_checks_its_inputs_itself(tmp_path):
    path = export_saved_model(image_model(), tmp_path / "images")
    servable = Servable(1, path)
    for signature in servable.signatures.values():
        assert not any(checked.check_shape for checked in signature._inputs)
    signature = servable.signature()
    image = np.ones((6, 6, 3), np.float32)
    for wrong in (image, np.float32(1), image[None, None]):
        with pytest.raises(
            ExecutionError, match="is not compatible with expected shape"
        ):
            signature.run({"image": np.asarray(wrong)})
    with pytest.raises(ExecutionError, match="holds no example"):
        signature.run({"image": image[None][:0]})
    # A server that checks shapes refuses them before.
    strict = Servable(1, path, loading=Loading(shape_checks="strict"))
    with pytest.raises(InvalidRequestError, match="Add a leading batch axis"):
        strict.signature().run({"image": image})


def test_recorded_requests_of_any_shape_are_run(half_plus_two):
    extra = half_plus_two / "assets.extra"
    extra.mkdir()
    logs = [predict_log(x=np.ones(shape, np.float32)) for shape in ((), (3,), (0,))]
    regress = prediction_log_pb2.PredictionLog()
    regress.regress_log.request.CopyFrom(
        regression("regress", input_of(example_of(1, 2)))
    )
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for log in (*logs, regress):
            file.write(log.SerializeToString())
    servable = Servable(1, half_plus_two)
    calls = []
    signature = servable.signature()
    run = signature.function
    signature.function = lambda *arguments: calls.append(arguments) or run(*arguments)
    warm_up(servable, half_plus_two, 3)
    assert len(calls) == 9


def test_another_tag_selects_another_graph(half_plus_two, tmp_path):
    saved = saved_model_pb2.SavedModel.FromString(
        (half_plus_two / "saved_model.pb").read_bytes()
    )
    saved.meta_graphs[0].meta_info_def.tags[:] = ["serve", "tpu"]
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    (tmp_path / "variables").symlink_to(half_plus_two / "variables")
    with pytest.raises(RuntimeError, match="could not be found"):
        Servable(1, tmp_path)
    servable = Servable(1, tmp_path, loading=Loading(tags=("serve", "tpu")))
    assert servable.signature().run({"x": np.float32(1)})["y"] == 2.5
