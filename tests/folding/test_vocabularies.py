"""Layers that were adapted to data keep what they have learned."""

import keras
import numpy as np
import pytest
from folding_checks import fold_and_compare, roughen
from keras import layers

from bn_keras import BatchNormalization, replace_batch_normalization
from bn_keras.folding import fold_batch_normalization

WORDS = np.array([["red"], ["green"], ["new york"], ["blue"], ["red"]], object)
NUMBERS = np.array([[7], [10_000], [-3], [7]], "int64")
FLOATS = np.random.default_rng(0).normal(3, 2, (50, 1)).astype("float32")


def adapted(layer, data):
    layer.adapt(data)
    return layer


ENCODERS = {
    "string lookup": (
        lambda: adapted(layers.StringLookup(output_mode="multi_hot"), WORDS),
        WORDS,
    ),
    "string lookup, vocabulary given": (
        lambda: layers.StringLookup(vocabulary=["red", "b"], output_mode="one_hot"),
        WORDS,
    ),
    "integer lookup": (
        lambda: adapted(layers.IntegerLookup(output_mode="one_hot"), NUMBERS),
        NUMBERS,
    ),
    "text vectorization": (
        lambda: adapted(layers.TextVectorization(output_mode="multi_hot"), WORDS[:, 0]),
        WORDS[:, 0],
    ),
    "text vectorization, tf-idf": (
        lambda: adapted(layers.TextVectorization(output_mode="tf_idf"), WORDS[:, 0]),
        WORDS[:, 0],
    ),
    "hashing": (lambda: layers.Hashing(8, output_mode="one_hot", salt=3), WORDS),
    "normalization": (lambda: adapted(layers.Normalization(), FLOATS), FLOATS),
    "discretization": (
        lambda: adapted(
            layers.Discretization(num_bins=4, output_mode="one_hot"), FLOATS
        ),
        FLOATS,
    ),
}


def as_input(values):
    return "string" if values.dtype == object else values.dtype.name


@pytest.mark.parametrize("name", ENCODERS)
def test_an_adapted_layer_returns_the_same_after_folding(name):
    make, values = ENCODERS[name]
    inputs = keras.Input(values.shape[1:], dtype=as_input(values))
    x = layers.Dense(4)(make()(inputs))
    model = roughen_dense(keras.Model(inputs, BatchNormalization()(x)))
    values = keras.ops.convert_to_tensor(values[:4])
    fold_and_compare(model, 1e-5, folded=1, left=0, inputs=values)


def roughen_dense(model):
    # `roughen` would replace the state of the adapted layers too.
    for layer in model.layers:
        if isinstance(layer, layers.Dense | BatchNormalization):
            roughen(keras.Sequential([keras.Input(layer.input.shape[1:]), layer]))
    return model


def test_tokens_keep_their_numbers_and_their_embeddings():
    texts = np.array(["the red house", "a green one", "the sea"], object)
    vectorize = adapted(layers.TextVectorization(output_sequence_length=4), texts)
    inputs = keras.Input((), dtype="string")
    x = layers.Embedding(vectorize.vocabulary_size(), 3)(vectorize(inputs))
    x = layers.GlobalAveragePooling1D()(BatchNormalization()(x))
    model = keras.Model(inputs, x)
    roughen(keras.Model(model.layers[1].output, x))
    values = keras.ops.convert_to_tensor(texts)
    result = fold_and_compare(model, 1e-5, folded=1, left=0, inputs=values)
    assert result.report.entries[0].rule == "Embedding, then BN"


def test_words_with_line_separators_stay_one_word():
    # Keras saves a vocabulary as a text file with one word a line.
    words = np.array(["a\u2028b", "c\x85d", "e\nf", " g", "h"], object)
    inputs = keras.Input((1,), dtype="string")
    x = adapted(layers.StringLookup(output_mode="one_hot"), words)(inputs)
    model = roughen_dense(keras.Model(inputs, BatchNormalization()(layers.Dense(3)(x))))
    values = keras.ops.convert_to_tensor(words[:, None])
    fold_and_compare(model, 1e-5, folded=1, left=0, inputs=values)


# Keras' own: it does not recognize the dictionary that it has wrapped.
@pytest.mark.filterwarnings("ignore:.*The structure of `inputs` doesn't match")
def test_a_feature_space_in_front_of_the_network_keeps_its_vocabularies():
    data = {
        "color": np.array(["red", "green", "blue", "red"], object),
        "size": np.array([1.0, 2.0, 4.0, 3.0], "float32"),
        "count": np.array([7, 8, 9, 7], "int64"),
    }
    space = keras.utils.FeatureSpace(
        features={
            "color": keras.utils.FeatureSpace.string_categorical(num_oov_indices=1),
            "size": keras.utils.FeatureSpace.float_normalized(),
            "count": keras.utils.FeatureSpace.integer_categorical(),
        },
        output_mode="concat",
    )
    tf = pytest.importorskip("tensorflow")
    space.adapt(tf.data.Dataset.from_tensor_slices(data))
    x = BatchNormalization()(layers.Dense(3)(space.get_encoded_features()))
    model = roughen_dense(keras.Model(space.get_inputs(), x))
    values = {key: tf.constant(x[:, None]) for key, x in data.items()}
    assert len({tuple(row) for row in np.array(model(values))}) == 4
    fold_and_compare(model, 1e-5, folded=1, left=0, inputs=values)


def test_adapting_the_original_again_does_not_change_the_folded_model():
    inputs = keras.Input((1,), dtype="string")
    lookup = adapted(layers.StringLookup(output_mode="one_hot"), WORDS)
    x = BatchNormalization()(layers.Dense(3)(lookup(inputs)))
    model = roughen_dense(keras.Model(inputs, x))
    folded = fold_batch_normalization(model).model
    values = keras.ops.convert_to_tensor(WORDS)
    before = np.array(folded(values))
    lookup.adapt(WORDS[[3, 3, 0, 1, 2, 2, 2]])  # in another order
    np.testing.assert_array_equal(folded(values), before)


def test_replacing_normalizations_keeps_vocabularies_too():
    inputs = keras.Input((1,), dtype="string")
    x = adapted(layers.StringLookup(output_mode="one_hot"), WORDS)(inputs)
    model = roughen_dense(keras.Model(inputs, BatchNormalization()(layers.Dense(3)(x))))
    replaced = replace_batch_normalization(model, layers.BatchNormalization)
    values = keras.ops.convert_to_tensor(WORDS)
    np.testing.assert_allclose(replaced(values), model(values), atol=1e-6)
