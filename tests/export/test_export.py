"""Exports can be loaded as TensorFlow Serving does, and give the model's outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, image_model, images
from processor import AVX512
from tensorflow.core.protobuf import rewriter_config_pb2

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.export import read_manifest
from bn_keras.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def model():
    return image_model()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return export_saved_model(model, tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def loaded(path):
    return LoadedExport(path)


def test_the_outputs_in_a_session_are_those_of_the_model(model, loaded):
    outputs = loaded(image=images(5))
    assert set(outputs) == {"scores"}
    expected = model.predict(images(5), verbose=0)
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-6)


def test_the_outputs_of_the_eager_loader_are_those_of_the_model(model, path):
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](
        image=tf.constant(images(5))
    )
    expected = model.predict(images(5), verbose=0)
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-6)


def test_several_named_inputs_and_outputs_keep_their_names(tmp_path):
    left = keras.Input((2,), name="left")
    right = keras.Input((2,), name="right")
    total = keras.layers.Add(name="total")([left, right])
    lead = keras.layers.Subtract(name="lead")([left, right])
    model = keras.Model({"right": right, "left": left}, [total, lead])
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m"))
    a, b = np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]])
    outputs = loaded(left=a, right=b)
    np.testing.assert_array_equal(outputs["total"], a + b)
    np.testing.assert_array_equal(outputs["lead"], a - b)


def test_the_graph_holds_small_weights_once_and_no_batch_normalization(loaded, path):
    operations = [node.op for node in loaded.nodes()]
    assert not {op for op in operations if "Variable" in op or "BatchNorm" in op}
    # A convolution for each of four signatures, but a single kernel.
    assert operations.count("Conv2D") == 4
    kernels = [
        node
        for node in loaded.nodes()
        if node.op == "Const" and node.attr["value"].tensor.tensor_shape.dim
        and [x.size for x in node.attr["value"].tensor.tensor_shape.dim] == [3, 3, 3, 4]
    ]  # fmt: skip
    assert len(kernels) == 1
    assert {file.name for file in path.iterdir()} == {"saved_model.pb", "assets.extra"}


@pytest.mark.parametrize("shape", [(6, 6, 3), (), (1, 6, 6, 1), (1, 5, 6, 3)])
@pytest.mark.parametrize("signature", ["serving_default", "predict_uint8"])
def test_a_wrong_shape_is_an_error_of_the_request(loaded, signature, shape):
    # Without a check, a wrong rank would abort the whole process.
    dtype = np.uint8 if signature == "predict_uint8" else np.float32
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with"):
        loaded(signature, image=np.zeros(shape, dtype))


def all_optimizations():
    """Return a session's settings with every optimization of TensorFlow's graphs."""
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options
    options.optimizer_options.opt_level = 1
    options.optimizer_options.do_common_subexpression_elimination = True
    options.optimizer_options.do_constant_folding = True
    options.optimizer_options.do_function_inlining = True
    rewriter = options.rewrite_options
    on, aggressive = rewriter_config_pb2.RewriterConfig.ON, 3
    for field in rewriter.DESCRIPTOR.fields:
        is_switch = field.enum_type is not None and field.enum_type.name == "Toggle"
        # Those change the precision, or the layout for GPUs.
        if is_switch and not (
            "mixed_precision" in field.name or "layout" in field.name
        ):
            setattr(rewriter, field.name, aggressive if "loop" in field.name else on)
    rewriter.min_graph_nodes = -1
    config.experimental.optimize_for_static_graph = True
    return config


@pytest.mark.parametrize("shape", [(6, 6, 3), (), (1, 1, 6, 6, 3)])
@pytest.mark.parametrize("signature", ["serving_default", "predict_uint8"])
def test_no_optimization_removes_the_check_of_the_rank(path, signature, shape):
    placeholder = LoadedExport(path).signatures[signature].inputs["image"].name
    loaded = LoadedExport(path, all_optimizations())
    (node,) = (x for x in loaded.nodes() if x.name == placeholder.partition(":")[0])
    # With a shape, an optimization may trust it and remove the check.
    assert node.attr["shape"].shape.unknown_rank
    consumers = [x.op for x in loaded.nodes() if node.name in x.input]
    assert consumers == ["EnsureShape"]
    dtype = np.uint8 if signature == "predict_uint8" else np.float32
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with"):
        loaded(signature, image=np.zeros(shape, dtype))


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_files_and_examples_of_a_wrong_rank_are_an_error_of_the_request(loaded, shape):
    for signature, name in (("predict_encoded", "image"), ("classify", "inputs")):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with"):
            loaded(signature, **{name: np.full(shape, b"", object)})


def test_an_empty_batch_is_an_error_of_the_request(loaded):
    for signature, info in loaded.signatures.items():
        (name,) = info.inputs
        empty = {
            "serving_default": images(0),
            "predict_uint8": np.zeros((0, 6, 6, 3), np.uint8),
        }.get(signature, np.array([], object))
        with pytest.raises(tf.errors.InvalidArgumentError, match="holds no example"):
            loaded(signature, **{name: empty})


def test_the_same_model_gives_the_same_bytes(model, path, tmp_path):
    again = export_saved_model(model, tmp_path / "m")
    for file in ("saved_model.pb", "assets.extra/manifest.json"):
        assert (again / file).read_bytes() == (path / file).read_bytes()


def test_the_checksum_depends_on_the_weights_but_not_on_the_names_of_layers(tmp_path):
    sums = []
    for seed, name in ((0, "first"), (0, "second"), (1, "third")):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(3, name=name), BatchNormalization()]
        model = keras.Sequential([keras.Input((4,)), *layers])
        manifest = read_manifest(export_saved_model(model, tmp_path / "m"))
        sums.append(manifest["weights"]["sha256"])
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize("position", range(8))
def test_at_one_batch_size_an_output_is_bitwise_independent_of_other_examples(
    loaded, position
):
    (example,) = images(1)
    draw = np.random.default_rng(position)
    alone = loaded(image=np.stack([example] * 8))["scores"][0 if AVX512 else position]
    other_examples = [
        draw.random((8, 6, 6, 3)),
        np.zeros((8, 6, 6, 3)),
        np.full((8, 6, 6, 3), 3e38),
        np.full((8, 6, 6, 3), np.nan),
        np.where(draw.random((8, 6, 6, 3)) < 0.5, -np.inf, 1e-45),
    ]
    for others in other_examples:
        batch = others.astype("float32")
        batch[position] = example
        output = loaded(image=batch)["scores"][position]
        assert output.tobytes() == alone.tobytes()


def test_a_model_without_images_has_one_signature(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m"))
    assert set(loaded.signatures) == {"serving_default"}
    with pytest.raises(
        ValueError, match=r"`preprocessing` must be None unless.*\{'x': \(None, 4\)\}"
    ):
        export_saved_model(model, tmp_path / "m", preprocessing=Preprocessing())
    with pytest.raises(
        ValueError, match=r"`labels` must have.*Received: 3 labels for another"
    ):
        export_saved_model(model, tmp_path / "m", labels=["a", "b", "c"])


def test_nested_shared_and_mixed_precision_models_can_be_exported(tmp_path):
    shared = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), BatchNormalization()]
    )
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", dtype="float64")
    c = keras.layers.Add()([shared(a), shared(keras.ops.cast(b, "float32"))])
    half = keras.layers.Dense(2, dtype="mixed_float16", name="half")(c)
    model = keras.Model([a, b], {"sum": c, "half": half})
    path = export_saved_model(model, tmp_path / "m")
    manifest = read_manifest(path)
    assert manifest["outputs"]["half"] == {"shape": [None, 2], "dtype": "float16"}
    assert manifest["inputs"]["b"]["dtype"] == "float64"
    assert manifest["compared"]["differences"]["serving_default"]["half"] < 1e-2


def test_a_recurrent_network_of_token_ids_can_be_exported(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32", name="tokens"),
            keras.layers.Embedding(7, 4),
            keras.layers.LSTM(3),
        ]
    )
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m"))
    tokens = np.arange(10, dtype=np.int32).reshape(2, 5) % 7
    (actual,) = loaded(tokens=tokens).values()
    np.testing.assert_allclose(actual, model(tokens), atol=1e-6)


def test_a_fully_convolutional_network_takes_images_of_any_size(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 1), name="x"), keras.layers.Conv2D(2, 3)]
    )
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m"))
    assert set(loaded.signatures) == {"serving_default", "predict_uint8"}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 1), np.uint8)
    (actual,) = loaded("predict_uint8", x=pixels).values()
    np.testing.assert_allclose(actual, model(pixels / 255), atol=1e-6)
