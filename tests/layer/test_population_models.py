"""Population statistics of models of any kind, and while other threads use them."""

import threading
from functools import partial

import keras
import numpy as np
import pytest
from normalization_oracle import tensorflow_only

import bn_keras
from bn_keras import BatchNormalization

estimate = partial(bn_keras.estimate_population_statistics, verbose=0)
LAYERS = [BatchNormalization, keras.layers.BatchNormalization]


def batches(count=3, size=5):
    draw = np.random.default_rng(0)
    return [draw.normal(2.0, 3.0, (size, 4)).astype("float32") for _ in range(count)]


def assert_estimated(layer, data):
    mean = np.mean([batch.mean(0) for batch in data], axis=0)
    variance = np.mean([batch.var(0, ddof=1) for batch in data], axis=0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.normalization = layer

    def call(self, inputs, training=None):
        return self.normalization(inputs, training=training)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_subclassed_model_that_was_never_called(layer, run_eagerly):
    model = Subclassed(layer())
    model.compile(run_eagerly=run_eagerly)
    estimate(model, iter(batches()))  # which can be read only once
    assert_estimated(model.normalization, batches())
    model = keras.Sequential([layer()])
    estimate(model, batches())
    assert_estimated(model.layers[0], batches())


@tensorflow_only
@pytest.mark.parametrize("called", [False, True])
def test_a_call_that_is_a_tf_function_stays_what_it_is(called):
    import tensorflow as tf

    class Compiled(Subclassed):
        @tf.function
        def call(self, inputs, training=None):
            return super().call(inputs, training)

    model, data = Compiled(BatchNormalization()), batches()
    # Keras takes the initial values of variables that are made inside a tf.function for
    # constants.
    model.normalization.build((None, 4))
    if called:
        model(data[0], training=False)
    estimate(model, data)
    layer = model.normalization
    assert_estimated(layer, data)
    assert "call" not in vars(model)
    # Nothing of the estimate is left in what TensorFlow has compiled.
    expected = (data[0] - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-3)
    for training in (False, None):
        outputs = model(data[0], training=training)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


@tensorflow_only
def test_another_tf_function_around_a_layer_is_an_error_that_names_it():
    import tensorflow as tf

    class Hidden(Subclassed):
        def call(self, inputs, training=None):
            return self.inner(inputs)

        @tf.function
        def inner(self, inputs):
            return self.normalization(inputs)

    model = Hidden(BatchNormalization(name="inside"))
    model.normalization.build((None, 4))
    model.built = True
    with pytest.raises(ValueError, match=r"inside', called in another tf\.function"):
        estimate(model, batches())
    np.testing.assert_array_equal(model.normalization.moving_variance, 1)


def test_a_layer_in_the_cell_of_an_rnn():
    class Cell(keras.layers.Layer):
        state_size = output_size = 4

        def __init__(self):
            super().__init__()
            self.normalization = BatchNormalization()

        def build(self, shape):
            self.normalization.build(shape)

        def call(self, inputs, states):
            return self.normalization(inputs), states

    cell = Cell()
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.RNN(cell)])
    sequences = np.stack(batches(), axis=1)
    if keras.backend.backend() == "jax":  # the loop is compiled in any case
        with pytest.raises(Exception):  # noqa: B017, PT011
            estimate(model, [sequences])
        return
    estimate(model, [sequences])
    # Each step is a mini-batch, and Keras calls the cell for the first step twice.
    first, *others = batches()
    assert_estimated(cell.normalization, [first, first, *others])


@pytest.mark.parametrize("method", ["algorithm2", "layerwise"])
def test_other_threads_call_the_model_as_always(method):
    layer = BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dropout(0.5)])
    values, wrong, done = batches(1)[0], [], threading.Event()
    started = threading.Event()

    def call():
        while not done.is_set():
            # Old or new statistics, but not those of the batch.
            outputs = np.asarray(model(values, training=False))
            wrong.append(np.abs(outputs - values / np.sqrt(1 + 1e-3)).max())
            started.set()

    thread = threading.Thread(target=call)

    def data():
        for batch in batches(20):
            started.wait(10)
            assert not done.is_set()
            yield batch
        done.set()  # before anything is stored
        thread.join()

    class Data:
        def __iter__(self):
            return data() if not done.is_set() else iter(batches(20))

    thread.start()
    try:
        estimate(model, Data(), method=method)
    finally:
        done.set()
        thread.join()
    assert max(wrong) < 1e-5


@pytest.mark.parametrize("frozen", [{"trainable": False}, {"frozen_statistics": True}])
def test_a_frozen_backbone_is_estimated_if_asked_for(frozen):
    layer = BatchNormalization(**frozen)
    model = keras.Sequential([keras.Input((4,)), layer])
    with pytest.raises(ValueError, match="Pass `include_frozen=True`"):
        estimate(model, batches())
    estimate(model, batches(), include_frozen=True)
    assert_estimated(layer, batches())
    assert (layer.trainable, layer.frozen_statistics) == (
        frozen.get("trainable", True),
        frozen.get("frozen_statistics", False),
    )


def test_layerwise_passes_end_at_their_layer():
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            calls.append(self.name)
            return inputs

    shared = BatchNormalization()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            BatchNormalization(),
            Counted(name="between"),
            keras.Sequential([shared]),
            Counted(name="behind"),
        ]
    )
    model.compile(run_eagerly=True)
    calls.clear()
    estimate(model, batches(1), method="layerwise")
    # The pass that finds the order, and the pass of the second layer.
    assert calls == ["between", "behind", "between"]
    np.testing.assert_allclose(shared.moving_mean, 0, atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_prior_counts_as_examples(own):
    layer, data = BatchNormalization(), batches(2)
    model = keras.Sequential([keras.Input((4,)), layer])
    other = keras.Sequential([keras.Input((4,)), BatchNormalization()])
    prior = model if own else other
    prior.layers[0].moving_mean.assign([8.0] * 4)
    estimate(model, data, prior=None if own else other, prior_count=30)
    mean = np.mean([batch.mean(0) for batch in data], 0)
    variance = np.mean([batch.var(0, ddof=1) for batch in data], 0)
    np.testing.assert_allclose(layer.moving_mean, (30 * 8 + 10 * mean) / 40, rtol=1e-5)
    expected = (30 * 1 + 10 * variance) / 40
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("count", [4, 16, 64])
@pytest.mark.parametrize(
    ("mean", "deviation"), [(0, 1), (3, 1), (0, 0.1), (0, 10), (0.5, 0.25)]
)
def test_an_automatic_prior_is_as_good_as_the_better_of_both(mean, deviation, count):
    layer = BatchNormalization()
    model = keras.Sequential([keras.Input((64,)), layer])
    draw = np.random.default_rng(3)
    data = mean + deviation * draw.normal(size=(count, 64)).astype("float32")

    def error():
        """Return the squared error of normalized means and logarithmic deviations."""
        moved = (np.asarray(layer.moving_mean) - mean) / deviation
        scaled = np.log(np.asarray(layer.moving_variance) / deviation**2) / 2
        return (moved**2).mean() + (scaled**2).mean()

    old = error()
    estimate(model, [data])
    new = error()
    layer.moving_mean.assign([0.0] * 64)
    layer.moving_variance.assign([1.0] * 64)
    estimate(model, [data], "layerwise", prior_count="auto")
    # The share is estimated from 64 channels. Its noise costs up to a tenth of both.
    assert error() < 1.1 * min(old, new) + 0.1 * new


@pytest.mark.fast
@pytest.mark.parametrize("deviation", [1.0, 0.03, 0.001])
@pytest.mark.parametrize("dead", [0, 58])
def test_channels_of_no_variance_do_not_count_for_the_prior(dead, deviation):
    # The means of channels of 64 move by one deviation, of which 1/16 can be chance.
    epsilon = 1e-9 if dead else 1e-3 * deviation**2
    layer = BatchNormalization(epsilon=epsilon)
    model = keras.Sequential([keras.Input((64,)), layer])
    data = np.random.default_rng(4).normal(1, 1, (16, 64)).astype("float32")
    data[:, 64 - dead :] = 0
    data = deviation * data
    layer.moving_variance.assign(
        np.where(np.arange(64) < 64 - dead, deviation**2, 0).astype("float32")
    )
    estimate(model, data, "layerwise", prior_count="auto")
    alive = slice(64 - dead)
    moved = np.mean(layer.moving_mean[alive] / data.mean(0)[alive])
    assert 0.85 < moved < 1


@pytest.mark.fast
@pytest.mark.parametrize("method", ["algorithm2", "layerwise"])
def test_ignored_batches_do_not_count_as_examples(method):
    layer, data = BatchNormalization(), batches(1)
    model = keras.Sequential([keras.Input((4,)), layer])
    ignored = [data[0][:1], np.full((5, 4), np.nan, "float32")]
    estimate(model, data + ignored, method, prior_count=5)
    count = len(data[0])
    expected = count * data[0].mean(0) / (count + 5)
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)


@pytest.mark.fast
def test_a_variance_of_zero_without_epsilon_is_estimated_without_the_prior():
    layer = BatchNormalization(epsilon=0)
    model = keras.Sequential([keras.Input((2,)), layer])
    data = np.stack([np.ones(8), np.arange(8)], 1).astype("float32")
    estimate(model, data, "layerwise", prior_count="auto")
    np.testing.assert_allclose(layer.moving_mean[0], 1)
    np.testing.assert_allclose(layer.moving_variance[0], 0, atol=1e-7)


@pytest.mark.fast
@pytest.mark.parametrize("prior_count", [0, "auto"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_statistics_that_are_not_finite_are_replaced(wrong, prior_count):
    layer = BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.moving_mean.assign([wrong] * 4)
    layer.moving_variance.assign([wrong] * 4)
    method = "layerwise" if prior_count == "auto" else "algorithm2"
    estimate(model, batches(1), method, prior_count=prior_count)
    assert_estimated(layer, batches(1))


@pytest.mark.fast
def test_the_errors_for_a_wrong_prior():
    model = keras.Sequential([keras.Input((4,)), BatchNormalization()])
    for count in (-1, "many", np.nan):
        with pytest.raises(ValueError, match=r"'auto'\. Received: prior_count="):
            estimate(model, batches(), prior_count=count)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="batch normalizations of the model"):
        estimate(model, batches(), prior=other, prior_count=1)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "model.keras"}, "`model` must be a Keras model"),
        ({"data": None}, "Received: None"),
        ({"data": "digits"}, "Received: 'digits'"),
        ({"data": np.ones((0, 4))}, r"must have an example\. .*\(0, 4\)"),
        ({"data": np.full((8, 4), np.nan)}, "without NaN and infinity"),
        ({"data": []}, "at least one mini-batch. Received: an empty or used-up list"),
        ({"data": [1.5]}, r"must be an array `\(batch, ...\)`.*Received: 1.5"),
        ({"method": np.ones(3)}, "`method` must be one of"),
        ({"prior_count": True}, "Received: prior_count=True"),
        ({"prior_count": np.ones(3)}, "`prior_count` must be a number"),
        ({"prior_count": "auto"}, "'layerwise' with prior_count='auto'"),
        ({"data": iter([]), "method": "layerwise"}, "Received: an iterator"),
        ({"prior": "model.keras", "prior_count": 1}, "`prior` must be None or"),
        ({"prior": keras.Sequential([keras.Input((4,))])}, "above 0 if there is"),
        (
            {
                "prior": keras.Sequential([keras.layers.BatchNormalization()]),
                "prior_count": 1,
            },
            r"shapes \[None\] instead of \[\(4,\)\]",
        ),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(arguments, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    before = model.get_weights()
    arguments = {"model": model, "data": np.ones((8, 4)), **arguments}
    with pytest.raises(ValueError, match=message):
        estimate(**arguments)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
