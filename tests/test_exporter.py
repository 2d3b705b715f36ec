"""An export, read back by the loader that TensorFlow Serving uses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.exporter import versions


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            keras.layers.Conv2D(4, 3, use_bias=False),
            BatchNormalization(momentum=0.5),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax", name="classes"),
        ]
    )
    model(images(64), training=True)
    return model


def images(count):
    draw = np.random.default_rng(count)
    return draw.normal(1.0, 2.0, (count, 6, 6, 2)).astype("float32")


class Loaded:
    """A SavedModel in the session that TensorFlow Serving would open."""

    def __init__(self, path):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(
                self.session, ["serve"], str(path)
            )
        self.graph = loaded
        self.signature = loaded.signature_def["serving_default"]

    def __call__(self, **inputs):
        feed = {
            self.signature.inputs[name].name: value for name, value in inputs.items()
        }
        fetch = {name: info.name for name, info in self.signature.outputs.items()}
        return self.session.run(fetch, feed)


def test_the_session_loader_answers_as_the_model_does(model, tmp_path):
    loaded = Loaded(export_saved_model(model, tmp_path / "m"))
    outputs = loaded(image=images(5))
    assert set(outputs) == {"classes"}
    expected = model.predict(images(5), verbose=0)
    np.testing.assert_allclose(outputs["classes"], expected, atol=1e-6)


def test_several_named_inputs_and_outputs_keep_their_names(tmp_path):
    left = keras.Input((2,), name="left")
    right = keras.Input((2,), name="right")
    total = keras.layers.Add(name="total")([left, right])
    lead = keras.layers.Subtract(name="lead")([left, right])
    model = keras.Model({"right": right, "left": left}, [total, lead])
    loaded = Loaded(export_saved_model(model, tmp_path / "m"))
    a, b = np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]])
    outputs = loaded(left=a, right=b)
    np.testing.assert_array_equal(outputs["total"], a + b)
    np.testing.assert_array_equal(outputs["lead"], a - b)


def test_the_graph_holds_constants_only(model, tmp_path):
    loaded = Loaded(export_saved_model(model, tmp_path / "m"))
    graph = loaded.graph.graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    found = {node.op for node in nodes}
    assert "Conv2D" in found
    assert not {op for op in found if "Variable" in op or "BatchNorm" in op}


@pytest.mark.parametrize("shape", [(6, 6, 2), (), (1, 6, 6, 3), (1, 5, 6, 2)])
def test_a_wrong_shape_is_an_error_of_the_request(model, tmp_path, shape):
    # Without ensure_shape a wrong rank aborts the whole process. The server feeds
    # without Session.run's check against the placeholder, so this one has no shape.
    path = export_saved_model(model, tmp_path / "m")
    name = Loaded(path).signature.inputs["image"].name
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        anything = tf.compat.v1.placeholder(tf.float32)
        loaded = tf.compat.v1.saved_model.loader.load(
            session, ["serve"], str(path), input_map={name: anything}
        )
    output = loaded.signature_def["serving_default"].outputs["classes"].name
    assert session.run(output, {anything: images(1)}).shape == (1, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with"):
        session.run(output, {anything: np.zeros(shape, np.float32)})


def test_an_empty_batch_is_an_error_of_the_request(model, tmp_path):
    loaded = Loaded(export_saved_model(model, tmp_path / "m"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds no example"):
        loaded(image=images(0))


def test_versions_count_up_and_are_never_reused(model, tmp_path):
    names = [export_saved_model(model, tmp_path / "m").name for _ in range(2)]
    assert names == ["1", "2"]
    (tmp_path / "m" / "00000007").mkdir()
    assert export_saved_model(model, tmp_path / "m").name == "8"
    assert versions(tmp_path / "m") == [1, 2, 7, 8]
    with pytest.raises(FileExistsError, match="Version 2 is already in"):
        export_saved_model(model, tmp_path / "m", version=2)


def test_a_failed_export_leaves_nothing_a_server_would_load(
    model, tmp_path, monkeypatch
):
    def fail(module, path, signatures):
        tf.io.gfile.makedirs(path)
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True])
def test_a_version_must_be_a_positive_integer(model, tmp_path, version):
    with pytest.raises(ValueError, match=r"positive integer\. Received"):
        export_saved_model(model, tmp_path / "m", version=version)
