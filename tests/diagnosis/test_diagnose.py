"""Models that are broken on purpose, one for each finding, and healthy ones."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from normalization_oracle import tensorflow_only

import bn_keras
from bn_keras import BatchNormalization
from bn_keras.diagnosis.findings import KINDS

LAYERS = [BatchNormalization, keras.layers.BatchNormalization]


def blobs(count=512, shift=0.0, scale=1.0):
    """Return points around three centers, and their classes."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, count)
    centers = np.random.default_rng(7).normal(0, 3, (3, 6))
    points = scale * (centers[labels] + draw.normal(size=(count, 6))) + shift
    return points.astype("float32"), labels


def model_of(layer=BatchNormalization, steps=96, **arguments):
    """Return a model that was trained for some steps of 32 examples."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, name="first"),
            layer(**{"momentum": 0.8, "name": "bn_1", **arguments}),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(8, name="second"),
            layer(**{"momentum": 0.8, "name": "bn_2", **arguments}),
            keras.layers.ReLU(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    if steps:
        x, y = blobs(32 * 16)
        model.fit(x, y, batch_size=32, epochs=steps // 16, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained():
    return model_of()


@pytest.fixture
def healthy(trained):
    """The trained model, which is put back after each test."""
    before = trained.get_weights()
    yield trained
    trained.set_weights(before)


def kinds(diagnosis):
    assert {finding.kind for finding in diagnosis.findings} <= set(KINDS)
    return [
        (finding.kind, finding.layer.split("/")[-1]) for finding in diagnosis.findings
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_is_said_about_a_healthy_model(layer):
    model = model_of(layer)
    before = [np.array(variable) for variable in model.variables]
    diagnosis = bn_keras.diagnose(model, blobs())
    assert diagnosis.findings == ()
    assert diagnosis.outcomes["stored"].accuracy > 0.9
    assert [x.layer.split("/")[-1] for x in diagnosis.layers] == ["bn_1", "bn_2"]
    assert [x.values for x in diagnosis.layers] == [32, 32]
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_statistics_of_other_data_drift_and_the_gap_can_be_removed(healthy):
    x, y = blobs(shift=4.0, scale=2.0)
    diagnosis = bn_keras.diagnose(healthy, (x, y))
    assert kinds(diagnosis)[0] == ("gap", "")
    assert ("drift", "bn_1") in kinds(diagnosis)
    assert diagnosis.removed > 0.8
    inputs = np.asarray(healthy.layers[0](x), np.float64)
    layer, state = healthy.layers[1], diagnosis.layers[0]
    deviation = np.sqrt(inputs.var(0) + 1e-3)
    drift = np.abs(np.asarray(layer.moving_mean) - inputs.mean(0)) / deviation
    np.testing.assert_allclose(state.mean_drift, drift.max(), rtol=0.05)
    # Without labels the same drift is found, but no gap.
    unlabelled = bn_keras.diagnose(healthy, x)
    assert {kind for kind, _ in kinds(unlabelled)} == {"drift"}
    assert unlabelled.outcomes["stored"].accuracy is None


def test_a_gap_that_re_estimation_does_not_remove():
    # Each mini-batch has one class: with its own statistics the mean is the answer.
    x = np.repeat([[-3.0], [3.0]], 64, 0) + np.random.default_rng(0).normal(
        size=(128, 1)
    )
    layer = BatchNormalization(momentum=0.0)
    model = keras.Sequential([keras.Input((1,)), layer])
    bn_keras.estimate_population_statistics(model, x.astype("float32"), verbose=0)
    model.compile("sgd", "mse")
    targets = np.concatenate([x[:64] + 3, x[64:] - 3])
    batches = [(x[:64], targets[:64]), (x[64:], targets[64:])] * 8
    diagnosis = bn_keras.diagnose(model, batches)
    (finding,) = [x for x in diagnosis.findings if x.kind == "gap"]
    assert "Re-estimation does not help" in finding.advice
    assert diagnosis.removed < 0.5


def test_statistics_that_were_never_updated():
    diagnosis = bn_keras.diagnose(model_of(steps=0), blobs()[0])
    assert kinds(diagnosis) == [("never_updated", "bn_1"), ("never_updated", "bn_2")]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_statistics_that_are_not_finite(healthy, wrong):
    layer = healthy.get_layer("bn_1")
    variance = np.array(layer.moving_variance)
    variance[3] = wrong
    layer.moving_variance.assign(variance)
    diagnosis = bn_keras.diagnose(healthy, blobs())
    assert kinds(diagnosis)[0] == ("not_finite", "bn_1")
    np.testing.assert_array_equal(layer.moving_variance, variance)


@pytest.mark.parametrize(("batch_size", "found"), [(4, True), (1, True), (16, False)])
def test_few_values(healthy, batch_size, found):
    diagnosis = bn_keras.diagnose(healthy, blobs()[0], batch_size=batch_size)
    names = [name for kind, name in kinds(diagnosis) if kind == "few_values"]
    assert names == ["bn_1", "bn_2"] * found


@pytest.mark.parametrize(
    ("arguments", "found"),
    [({"momentum": 0.99}, True), ({"averaging": "debiased"}, False)],
)
def test_a_momentum_that_is_too_slow(arguments, found):
    model = model_of(steps=32, **arguments)
    diagnosis = bn_keras.diagnose(model, blobs())
    slow = [
        finding for finding in diagnosis.findings if finding.kind == "slow_momentum"
    ]
    assert len(slow) == 2 * found
    if found:
        assert "after 32 steps with momentum 0.99, 72% of" in slow[0].message


def test_dead_channels_and_tiny_variances(healthy):
    first, layer = healthy.get_layer("first"), healthy.get_layer("bn_1")
    kernel, gamma = np.array(first.kernel), np.array(layer.gamma)
    kernel[:, 0] = 0  # its input is a constant
    kernel[:, 1] *= 1e-3
    gamma[2] = 0
    first.kernel.assign(kernel)
    layer.gamma.assign(gamma)
    bn_keras.estimate_population_statistics(healthy, blobs()[0], verbose=0)
    diagnosis = bn_keras.diagnose(healthy, blobs()[0])
    assert kinds(diagnosis) == [("dead_channels", "bn_1"), ("tiny_variance", "bn_1")]
    assert (diagnosis.layers[0].dead, diagnosis.layers[0].tiny) == (2, 1)
    assert "2 of 12 channels have constant outputs" in diagnosis.findings[0].message


def test_a_frozen_layer_that_moves():
    class Stubborn(BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            outputs = super().call(inputs, training, mask)
            if training:
                self.moving_mean.assign(0.9 * self.moving_mean + 0.1)
            return outputs

    model = model_of(Stubborn)
    bn_keras.estimate_population_statistics(model, blobs()[0], verbose=0)
    assert "frozen_moves" not in [
        kind for kind, _ in kinds(bn_keras.diagnose(model, blobs()))
    ]
    model.get_layer("bn_2").trainable = False
    diagnosis = bn_keras.diagnose(model, blobs())
    assert ("frozen_moves", "bn_2") in kinds(diagnosis)
    assert ("frozen_moves", "bn_1") not in kinds(diagnosis)


def test_a_backbone_of_which_only_the_normalization_is_not_frozen(healthy):
    inputs = keras.Input((6,))
    head = keras.layers.Dense(3)
    model = keras.Model(inputs, head(healthy(inputs)))
    for layer in healthy.layers:
        layer.trainable = isinstance(layer, BatchNormalization)
    try:
        found = kinds(bn_keras.diagnose(model, blobs()[0]))
        assert found == [("frozen_moves", "bn_1"), ("frozen_moves", "bn_2")]
        for name in ("bn_1", "bn_2"):
            healthy.get_layer(name).frozen_statistics = True
        assert kinds(bn_keras.diagnose(model, blobs()[0])) == []
    finally:
        for layer in healthy.layers:
            layer.trainable = True
        for name in ("bn_1", "bn_2"):
            healthy.get_layer(name).frozen_statistics = False


def test_the_report_is_a_table_a_page_of_a_notebook_and_json(healthy, tmp_path):
    diagnosis = bn_keras.diagnose(healthy, blobs(shift=4.0))
    text = str(diagnosis)
    first = diagnosis.findings[0]
    assert f"1. {first.message}\n   {first.advice}" in text
    assert "sequential" not in repr(diagnosis)
    assert (
        repr(diagnosis)
        == f"<Diagnosis: {len(diagnosis.findings)} findings in 2 layers>"
    )
    assert diagnosis._repr_html_().count("<table>") == 3
    again = json.loads(json.dumps(diagnosis.to_dict()))
    assert again["findings"][0]["kind"] == first.kind
    diagnosis.plot(tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"at least 1\. Received: steps=0"),
        ({"batch_size": 2.5}, r"at least 1\. Received: batch_size=2.5"),
        ({"data": []}, r"mini-batch\. Received: none"),
        (
            {"model": keras.Sequential([keras.layers.ReLU()])},
            r"must have a batch normalization\. Received: Sequential",
        ),
        (
            {"model": keras.Sequential([BatchNormalization()])},
            r"must be built\. Received: Sequential .* Call it on data",
        ),
        ({"model": "model.keras"}, "must be a Keras model"),
        ({"batch_size": True}, "Received: batch_size=True"),
        ({"data": None}, r"iterable of mini-batches\. Received: None"),
        ({"data": "digits"}, "Received: 'digits'"),
        ({"data": ()}, "mini-batch"),
        ({"data": (blobs()[0], blobs(9)[1])}, r"shapes \[\(512, 6\), \(9,\)\]"),
    ],
)
def test_the_errors_for_wrong_arguments(healthy, arguments, message):
    arguments = {"model": healthy, "data": blobs(), **arguments}
    with pytest.raises(ValueError, match=message):
        bn_keras.diagnose(**arguments)


class Compiled(keras.Model):
    """A model that returns a dictionary, with a `call` that TensorFlow compiles."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)
        self.normalize = BatchNormalization()

    @tf.function
    def call(self, inputs, training=False):
        outputs = self.normalize(self.dense(inputs), training=training)
        return {"nothing": None, "scores": outputs}


@tensorflow_only
def test_a_call_that_is_a_tf_function_is_diagnosed():
    model = Compiled()
    points, _ = blobs()
    model(points, training=False)  # compiled before it is observed
    diagnosis = bn_keras.diagnose(model, points)
    assert [x.kind for x in diagnosis.findings] == ["never_updated"]
    assert diagnosis.layers[0].values == 32
    assert repr(diagnosis) == "<Diagnosis: 1 finding in 1 layer>"


class Hidden(Compiled):
    def call(self, inputs, training=False):
        return tf.function(self.apply_all)(inputs, training)

    @tf.function
    def apply_all(self, inputs, training):
        return self.normalize(self.dense(inputs), training=training)


@tensorflow_only
def test_layers_in_another_tf_function_are_an_error_not_a_healthy_model():
    model = Hidden()
    points, _ = blobs()
    model(points)
    with pytest.raises(ValueError, match="run_functions_eagerly"):
        bn_keras.diagnose(model, points)


@pytest.mark.parametrize("kind", [dict, list])
def test_several_inputs_are_divided_into_mini_batches(kind):
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((2,), name="b")}
    x = keras.layers.Concatenate()(list(inputs.values()))
    outputs = keras.layers.Dense(3)(BatchNormalization()(x))
    points, labels = blobs(70)
    arrays = {"a": points, "b": points[:, :2]}
    if kind is list:
        inputs, arrays = list(inputs.values()), list(arrays.values())
    model = keras.Model(inputs, outputs)
    diagnosis = bn_keras.diagnose(model, (arrays, list(labels)), batch_size=16)
    assert diagnosis.layers[0].values == 16
    assert diagnosis.outcomes["stored"].accuracy is not None
    if kind is dict:
        assert bn_keras.diagnose(model, arrays, batch_size=7).layers[0].values == 7
