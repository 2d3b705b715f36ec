"""Folding compares the result with the original before it returns it."""

import time

import keras
import numpy as np
import pytest
from folding_checks import roughen
from keras import layers, ops

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization, fold_model
from bn_keras.folding.comparing import Comparison
from bn_keras.keras_graph import read_graph

pytestmark = pytest.mark.fast


def network(*steps, shape=(4,), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    for step in (*steps, layers.Dense(3), BatchNormalization()):
        x = step(x)
    return roughen(keras.Model(inputs, x), wide=False)


@pytest.fixture
def wrong_fold(monkeypatch):
    """Let folding return weights that are wrong by a factor."""
    rebuild = fold_model.rebuild_model

    def change(factor):
        def rebuild_wrongly(graph):
            folded = rebuild(graph)
            variable = folded.trainable_variables[-2]
            variable.assign(variable * factor)
            return folded

        monkeypatch.setattr(fold_model, "rebuild_model", rebuild_wrongly)

    return change


def test_other_outputs_raise_an_error(wrong_fold):
    model = network()
    wrong_fold(1.01)
    with pytest.raises(ValueError, match=r"must have the outputs.*differs by 0\.0"):
        fold_batch_normalization(model)
    assert fold_batch_normalization(model, check=False).report.folded == 1


def test_rounding_does_not_raise_an_error(wrong_fold):
    wrong_fold(1 + 1e-5)
    fold_batch_normalization(network())


def test_a_folded_model_that_raises_an_error_is_refused(monkeypatch):
    rebuild = fold_model.rebuild_model

    def rebuild_wrongly(graph):
        folded = rebuild(graph)
        inputs = keras.Input(folded.input.shape[1:], name=folded.input.name)

        def fail(x):
            raise RuntimeError("no such size")

        failing = layers.Lambda(fail, output_shape=folded.output.shape[1:])
        return keras.Model(inputs, failing(inputs))

    monkeypatch.setattr(fold_model, "rebuild_model", rebuild_wrongly)
    with pytest.raises(
        ValueError, match=r"the folded model raises an error: .*no such size"
    ):
        fold_batch_normalization(network())


def test_inputs_that_cannot_be_drawn_are_named_in_a_warning():
    def refuse(x):
        raise RuntimeError("unknown units")

    model = network(layers.Lambda(refuse, output_shape=(4,)))
    with pytest.warns(UserWarning, match=r"not compared.*unknown units.*check=False"):
        result = fold_batch_normalization(model)
    assert result.report.folded == 1
    fold_batch_normalization(model, check=False)


def test_a_network_that_amplifies_rounding_is_accepted(wrong_fold):
    # A difference of 1e-7 in the input becomes one of 1e-2 in the output.
    wrong_fold(1 + 1e-7)
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3, use_bias=False)(inputs))
    model = roughen(keras.Model(inputs, ops.sin(x * 1e5)), wide=False)
    fold_batch_normalization(model)


def test_a_random_layer_does_not_prevent_folding():
    class Noise(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(0)

        def call(self, inputs):
            noise = keras.random.normal(ops.shape(inputs), seed=self.seed_generator)
            return inputs + noise

    model = network(Noise())
    state = np.array(model.layers[1].seed_generator.state)
    assert fold_batch_normalization(model).report.folded == 1
    np.testing.assert_array_equal(model.layers[1].seed_generator.state, state)


def drawn(model):
    comparison = Comparison(model, read_graph(model), 0.0)
    return [np.asarray(x) for x in comparison._draw(32)]


def test_integers_are_drawn_from_the_rows_of_the_table_that_they_select():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(50, 3)(ops.maximum(inputs, 0))
    other = keras.Input((7,), dtype="int64")
    y = layers.CategoryEncoding(9, output_mode="multi_hot")(other)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), y])
    tokens, categories = drawn(keras.Model([inputs, other], x))
    assert tokens.shape == (2, 6)
    assert tokens.min() >= 0
    assert 2 < tokens.max() < 50
    assert 2 < categories.max() < 9


def test_strings_are_drawn_from_the_vocabulary():
    inputs = keras.Input((6,), dtype="string")
    x = layers.StringLookup(vocabulary=["red", "green"])(inputs)
    (words,) = drawn(keras.Model(inputs, x))
    assert set(words.flat) <= {"red", "green", "[UNK]"}
    assert len(set(words.flat)) > 1


def test_floats_bytes_and_truths_are_drawn_with_any_size():
    shapes = {"float32": (None, 3), "uint8": (None, None, 3), "bool": (2,)}
    inputs = {key: keras.Input(x, dtype=key, name=key) for key, x in shapes.items()}
    values = drawn(keras.Model(inputs, dict(inputs)))
    by_dtype = {x.dtype.name: x for x in values}
    assert by_dtype["float32"].shape == (2, 32, 3)
    assert by_dtype["uint8"].shape == (2, 32, 32, 3)
    assert by_dtype["uint8"].max() > 200
    assert by_dtype["bool"].shape == (2, 2)


def test_the_tolerance_is_that_of_the_layers_before_an_output():
    inputs = keras.Input((4,))
    low = layers.Dense(3, dtype="mixed_float16")(inputs)
    high = BatchNormalization()(layers.Dense(3)(inputs))
    number = ops.argmax(high, axis=-1)
    model = keras.Model(inputs, [low, high, layers.Dense(2)(low), number])
    tolerances = Comparison(model, read_graph(model), 0.0).tolerances
    assert tolerances == [5e-2, 1e-3, 5e-2, 1e-3]


def test_a_model_with_a_fixed_batch_is_compared():
    inputs = keras.Input(batch_shape=(5, 4))
    model = keras.Model(inputs, BatchNormalization()(layers.Dense(3)(inputs)))
    assert drawn(model)[0].shape == (5, 4)
    assert fold_batch_normalization(model).report.folded == 1


def test_the_comparison_costs_less_than_folding_itself():
    x = inputs = keras.Input((32, 32, 8))
    for _ in range(20):
        x = BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    model = keras.Model(inputs, layers.ReLU()(x))
    model(np.zeros((2, 32, 32, 8), "float32"))

    def measure(**arguments):
        start = time.process_time()
        fold_batch_normalization(model, **arguments)
        return time.process_time() - start

    measure()
    without = min(measure(check=False) for _ in range(2))
    # Half a second for the two forward passes, on a machine that does other work too.
    assert min(measure() for _ in range(2)) < 2 * without + 0.5
