"""What is not published: answers that differ, or that are not always the same."""

import keras
import numpy as np
import pytest
from export_checks import image_model, images

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.export import checking, read_manifest, versions
from bn_keras.export.checking import difference
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


def refused(layer, tmp_path, shape=(8, 8, 3), **call):
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
def test_a_layer_in_training_mode_is_refused_by_name(layer, tmp_path):
    message = refused(layer, tmp_path, training=True)
    assert "must answer the same whenever it is asked" in message
    assert "suspect" in message


class Noise(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=1)


def test_a_random_operation_is_refused_by_name(tmp_path):
    message = refused(Noise(name="suspect"), tmp_path)
    assert "a random operation" in message
    assert "suspect" in message


class Fused(keras.layers.Layer):
    def call(self, inputs):
        import tensorflow as tf

        ones = tf.ones(3)
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=ones, offset=ones, mean=[], variance=[], is_training=True
        ).y


def test_a_fused_operation_in_training_mode_is_refused_by_name(tmp_path):
    message = refused(Fused(name="suspect"), tmp_path)
    assert "statistics of the batch, FusedBatchNormV3" in message
    assert "suspect" in message


def test_a_layer_with_state_is_refused_by_name(tmp_path):
    message = refused(Counter(name="suspect"), tmp_path)
    assert "a stateful operation" in message
    assert "suspect" in message


def test_statistics_of_the_batch_are_refused_whatever_computes_them(tmp_path):
    message = refused(BatchMean(), tmp_path, shape=(4,))
    assert "must not depend on the others in its batch" in message
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
def test_a_layer_that_is_idle_or_of_one_example_is_exported(layer, tmp_path):
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, layer(inputs))
    assert export_saved_model(model, tmp_path / "m").name == "1"


@pytest.mark.parametrize(
    "signature", ["serving_default", "predict_uint8", "predict_encoded", "classify"]
)
def test_a_difference_in_any_signature_refuses_the_export(
    tmp_path, monkeypatch, signature
):
    run = checking.Loaded.run

    def changed(self, name, inputs):
        outputs = run(self, name, inputs)
        if name == signature:
            outputs["scores"] = outputs["scores"] + 2e-4
        return outputs

    monkeypatch.setattr(checking.Loaded, "run", changed)
    with pytest.raises(ValueError, match=rf"a difference of .* of '{signature}'"):
        export_saved_model(image_model(), tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_the_callers_samples_and_tolerance_are_used(tmp_path):
    model = image_model()
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
def test_samples_must_be_what_the_model_takes(tmp_path, samples):
    with pytest.raises(ValueError, match=r"`samples` must be arrays.*Received: shapes"):
        export_saved_model(image_model(), tmp_path / "m", samples=samples)


def test_differences_count_in_units_of_the_largest_value_and_see_infinities():
    one = np.array([1.0, -4.0])
    assert difference(np.array([1.0, -3.0]), one) == 0.25
    assert difference(one, np.zeros(2)) == 4
    odd = np.array([np.nan, np.inf, 1.0])
    assert difference(odd, odd) == 0
    assert difference(np.array([1.0, np.inf, 1.0]), odd) == np.inf
    assert difference(np.array([np.nan, 1.0]), np.ones(2)) == np.inf
    assert difference(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert difference(np.ones(3), np.ones(2)) == np.inf


def test_samples_without_a_finite_answer_are_refused(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    samples = np.full((2, 4), np.nan, "float32")
    with pytest.raises(ValueError, match="finite number, to compare with"):
        export_saved_model(model, tmp_path / "m", samples=samples)


def test_a_sum_over_the_batch_is_refused(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.ops.sum(inputs, 0))
    with pytest.raises(ValueError, match="must not depend on the others"):
        export_saved_model(model, tmp_path / "m")


def test_one_sample_meets_others_before_it_is_believed(tmp_path):
    inputs = keras.Input((4,), name="x")
    centred = inputs - keras.ops.mean(inputs, 0, keepdims=True)
    samples = np.ones((1, 4), "float32")
    with pytest.raises(ValueError, match="must not depend on the others"):
        export_saved_model(
            keras.Model(inputs, centred), tmp_path / "m", samples=samples
        )


def test_a_tensor_times_a_number_is_dense(tmp_path):
    inputs = keras.Input((4,), name="x")
    export_saved_model(keras.Model(inputs, inputs * 2), tmp_path / "m")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "a", (), [[1.0]]])
def test_a_scale_must_be_finite_numbers(scale):
    with pytest.raises(ValueError, match="`scale` must be one finite number"):
        Preprocessing(scale=scale)


def test_a_subclassed_or_sparse_model_is_refused(tmp_path):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="Functional or Sequential"):
        export_saved_model(Own(), tmp_path / "m")
    inputs = keras.Input((4,), sparse=True, name="x")
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"must be dense.*'x'"):
        export_saved_model(model, tmp_path / "m")
