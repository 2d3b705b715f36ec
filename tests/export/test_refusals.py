"""Models whose outputs are not always the same, or not those of the export."""

import keras
import numpy as np
import pytest
from export_checks import image_model, images

from bn_keras import (
    BatchNormalization,
    export_saved_model,
    fold_batch_normalization,
)
from bn_keras.export import checking, read_manifest, versions
from bn_keras.export.checking import relative_difference
from bn_keras.export.contract import make_contract
from bn_keras.export.samples import draw_samples
from bn_keras.images.preprocessing import Preprocessing


class BatchMean(keras.layers.Layer):
    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


class Counter(keras.layers.Layer):
    def build(self, input_shape):
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs + self.count


def error_of_export(layer, tmp_path, shape=(8, 8, 2), **call):
    # Two channels: a custom layer could scale the pixels of an image.
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, layer(inputs, **call))
    with pytest.raises(ValueError, match="Received") as raised:
        export_saved_model(model, tmp_path / "m")
    assert not (tmp_path / "m").exists() or versions(tmp_path / "m") == []
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.5, name="suspect"),
        keras.layers.GaussianNoise(0.5, name="suspect"),
        BatchNormalization(name="suspect"),
        keras.layers.BatchNormalization(name="suspect"),
    ],
    ids=lambda layer: type(layer).__module__ + type(layer).__name__,
)
def test_a_layer_in_training_mode_is_named(layer, tmp_path):
    message = error_of_export(layer, tmp_path, training=True)
    assert "must always give the same outputs for the same inputs" in message
    assert "suspect" in message


class Noise(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=1)


def test_the_layer_with_a_random_operation_is_named(tmp_path):
    message = error_of_export(Noise(name="suspect"), tmp_path)
    assert "a random operation" in message
    assert "suspect" in message


class FusedNormalization(keras.layers.Layer):
    def call(self, inputs):
        import tensorflow as tf

        ones = tf.ones(2)
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=ones, offset=ones, mean=[], variance=[], is_training=True
        ).y


def test_the_layer_with_a_fused_operation_in_training_mode_is_named(tmp_path):
    message = error_of_export(FusedNormalization(name="suspect"), tmp_path)
    assert "statistics of the batch, FusedBatchNormV3" in message
    assert "suspect" in message


def test_the_layer_with_a_state_is_named(tmp_path):
    message = error_of_export(Counter(name="suspect"), tmp_path)
    assert "a stateful operation" in message
    assert "suspect" in message


def test_an_output_that_depends_on_statistics_of_the_batch_is_rejected(tmp_path):
    message = error_of_export(BatchMean(), tmp_path, shape=(4,))
    assert "must not depend on the other examples in its batch" in message
    assert "'batch_mean' differs by" in message


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.5),
        keras.layers.RandomFlip(),
        keras.layers.LayerNormalization(),
        keras.layers.GroupNormalization(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_treat_every_example_separately_are_exported(layer, tmp_path):
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, layer(inputs))
    assert export_saved_model(model, tmp_path / "m").name == "1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a model of images, its contract and the path of its export."""
    model = image_model()
    contract = make_contract(model, fold_batch_normalization(model).model)
    path = export_saved_model(model, tmp_path_factory.mktemp("models") / "m")
    return model, contract, path


@pytest.fixture
def change_outputs(monkeypatch):
    """Return a function that makes the scores of a signature of every export wrong."""
    run = checking.SavedModelSession.run

    def change(signature):
        def run_wrongly(self, name, inputs):
            outputs = run(self, name, inputs)
            if name == signature:
                outputs["scores"] = outputs["scores"] + 2e-4
            return outputs

        monkeypatch.setattr(checking.SavedModelSession, "run", run_wrongly)

    return change


@pytest.mark.parametrize(
    "signature", ["serving_default", "predict_uint8", "predict_encoded", "classify"]
)
def test_a_difference_in_any_signature_is_detected(exported, change_outputs, signature):
    model, contract, path = exported
    samples = draw_samples(contract)
    change_outputs(signature)
    with pytest.raises(ValueError, match=rf"a difference of .* of '{signature}'"):
        checking.compare(
            path,
            model,
            contract,
            samples,
            checking.run_model(model, contract, samples),
            {"scores": 1e-4},
        )


def test_an_export_that_differs_from_the_model_is_not_published(
    exported, change_outputs, tmp_path
):
    change_outputs("classify")
    with pytest.raises(ValueError, match=r"a difference of .*Nothing was published"):
        export_saved_model(exported[0], tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_samples_and_tolerance_are_respected(exported, tmp_path):
    model = exported[0]
    path = export_saved_model(model, tmp_path / "m", samples=images(11))
    compared = read_manifest(path)["compared"]
    assert compared["examples"] == 11
    assert set(compared["differences"]) == {
        *("serving_default", "predict_uint8", "predict_encoded", "classify")
    }
    assert 0 <= compared["differences"]["serving_default"]["scores"] < 1e-5
    with pytest.raises(ValueError, match="within 1e-12 of"):
        export_saved_model(model, tmp_path / "m", tolerance=1e-12, samples=images(64))


@pytest.mark.parametrize(
    "samples", [images(0), images(2)[0], images(2, side=5), [images(2)] * 2, "x"]
)
def test_samples_must_have_the_shapes_of_the_inputs(exported, tmp_path, samples):
    message = r"`samples` must be arrays.*Received: arrays of shapes"
    with pytest.raises(ValueError, match=message):
        export_saved_model(exported[0], tmp_path / "m", samples=samples)


def test_the_tolerance_is_that_of_the_layers_on_the_way_to_an_output():
    inputs = keras.Input((4,), name="x")
    exact = keras.layers.Dense(2, name="exact")(inputs)
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16")(exact)
    rounded = keras.layers.Identity(name="rounded", dtype="float32")(dense)
    double = keras.layers.Identity(name="double", dtype="float64")(
        keras.Input((4,), name="y", dtype="float64")
    )
    nested = keras.Sequential([keras.layers.Dense(2, dtype="mixed_float16")])
    inner = keras.layers.TimeDistributed(nested, name="inner")(
        keras.layers.Reshape((2, 2))(inputs)
    )
    model = keras.Model(
        [inputs, double._keras_history.operation.input],
        [exact, rounded, double, inner],
    )
    contract = make_contract(model, model)
    assert checking.tolerances(model, contract) == {
        **{"exact": 1e-4, "rounded": 5e-2, "double": 1e-8, "inner": 1e-2}
    }
    assert set(checking.tolerances(model, contract, 0.5).values()) == {0.5}


@pytest.mark.fast
def test_differences_are_relative_to_the_largest_value_and_include_infinities():
    values = np.array([1.0, -4.0])
    assert relative_difference(np.array([1.0, -3.0]), values) == 0.25
    assert relative_difference(values, np.zeros(2)) == 4
    not_finite = np.array([np.nan, np.inf, 1.0])
    assert relative_difference(not_finite, not_finite) == 0
    assert relative_difference(np.array([1.0, np.inf, 1.0]), not_finite) == np.inf
    assert relative_difference(np.array([np.nan, 1.0]), np.ones(2)) == np.inf
    assert relative_difference(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert relative_difference(np.ones(3), np.ones(2)) == np.inf


def test_samples_without_a_finite_output_are_rejected(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    samples = np.full((2, 4), np.nan, "float32")
    with pytest.raises(ValueError, match="must return finite numbers for the samples"):
        export_saved_model(model, tmp_path / "m", samples=samples)


def test_a_sum_over_the_batch_is_rejected(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.ops.sum(inputs, 0))
    with pytest.raises(ValueError, match="must not depend on the other examples"):
        export_saved_model(model, tmp_path / "m")


def test_a_single_sample_is_compared_in_a_batch_with_others(tmp_path):
    inputs = keras.Input((4,), name="x")
    centred = inputs - keras.ops.mean(inputs, 0, keepdims=True)
    samples = np.ones((1, 4), "float32")
    with pytest.raises(ValueError, match="must not depend on the other examples"):
        export_saved_model(
            keras.Model(inputs, centred), tmp_path / "m", samples=samples
        )


def test_a_tensor_times_a_number_counts_as_dense(tmp_path):
    inputs = keras.Input((4,), name="x")
    export_saved_model(keras.Model(inputs, inputs * 2), tmp_path / "m")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "a", (), [[1.0]]])
def test_a_scale_must_be_finite_numbers(scale):
    with pytest.raises(ValueError, match="`scale` must be a finite number"):
        Preprocessing(scale=scale)


def test_subclassed_models_and_sparse_inputs_are_rejected(tmp_path):
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="Functional or Sequential"):
        export_saved_model(Subclassed(), tmp_path / "m")
    inputs = keras.Input((4,), sparse=True, name="x")
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"must be dense.*'x'"):
        export_saved_model(model, tmp_path / "m")


class Network(keras.Model):
    """A subclassed model whose `call` consists of layers."""

    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv2D(4, 3, use_bias=False)
        self.normalization = BatchNormalization()
        self.pooling = keras.layers.GlobalAveragePooling2D()

    def call(self, inputs):
        return self.pooling(self.normalization(self.convolution(inputs)))


def test_a_subclassed_model_that_can_be_folded_is_exported(tmp_path):
    model = Network()
    model(images(2))
    manifest = read_manifest(export_saved_model(model, tmp_path / "m"))
    assert [x["outcome"] for x in manifest["folding"]] == ["folded"]


def test_lost_digits_are_in_a_warning_and_in_the_manifest(tmp_path):
    inputs = keras.Input((4,), name="x")
    normalization = BatchNormalization(name="far")
    model = keras.Model(inputs, keras.layers.ReLU()(normalization(inputs)))
    normalization.moving_mean.assign([1e6] * 4)
    samples = 1e6 + np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    with pytest.warns(UserWarning, match="far"):
        path = export_saved_model(model, tmp_path / "m", samples=samples, tolerance=0.5)
    assert any("far" in text for text in read_manifest(path)["warnings"])
