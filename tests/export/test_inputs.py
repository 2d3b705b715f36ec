"""Models with inputs, outputs and layers of every kind can be exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, images, strings

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.export import read_manifest

WORDS = ["cat", "dog", "größe", "a b", "\u2028", "x\n"]


def check(model, inputs, folder, **options):
    """Export a model and compare it; inputs are by name. Return the loaded export."""
    path = export_saved_model(model, folder / "m", **options)
    loaded = LoadedExport(path)
    expected = model(
        list(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values()))
    )
    outputs = loaded(**inputs)
    names = read_manifest(path)["outputs"]
    for name, value in zip(names, keras.tree.flatten(expected), strict=True):
        actual, value = outputs[name], keras.ops.convert_to_numpy(value)
        if value.dtype == object:
            np.testing.assert_array_equal(actual, value)
        else:
            np.testing.assert_allclose(actual, value, atol=1e-6)
    # The same through `tf.saved_model.load`, whose functions the batching kernel runs.
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    again = function(**{name: tf.constant(x) for name, x in inputs.items()})
    for name, value in outputs.items():
        np.testing.assert_array_equal(again[name].numpy(), value)
    return loaded


def lookup_model(**settings):
    text = keras.Input((3,), dtype="string", name="text")
    places = keras.layers.StringLookup(vocabulary=WORDS, **settings)(text)
    x = keras.layers.Embedding(len(WORDS) + 1, 4)(places)
    x = keras.layers.Flatten()(x)
    return keras.Model(text, BatchNormalization()(keras.layers.Dense(2)(x)))


def test_strings_are_looked_up_in_the_vocabulary(tmp_path):
    text = strings([[b"cat", "größe".encode(), b"?"], ["\u2028".encode(), b"x\n", b""]])
    loaded = check(lookup_model(), {"text": text}, tmp_path)
    operations = {node.op for node in loaded.nodes()}
    assert "HashTableV2" in operations
    assert not {op for op in operations if "Mutable" in op or "InitializeTable" in op}


def test_a_vocabulary_file_becomes_part_of_the_version(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(WORDS[:4]), encoding="utf-8")
    text = keras.Input((3,), dtype="string", name="text")
    lookup = keras.layers.StringLookup(vocabulary=str(vocabulary))
    model = keras.Model(text, lookup(text))
    loaded = check(model, {"text": strings([[b"dog", b"a b", b"?"]])}, tmp_path)
    vocabulary.unlink()
    assert loaded(text=strings([[b"dog", b"a b", b"?"]]))


@pytest.mark.parametrize("constants", [False, True])
def test_a_table_is_saved_with_and_without_variables(tmp_path, constants):
    text = keras.Input((3,), dtype="string", name="text")
    model = keras.Model(text, keras.layers.StringLookup(vocabulary=WORDS)(text))
    inputs = {"text": strings([[b"dog", b"a b", b"?"]])}
    check(model, inputs, tmp_path, constants=constants)


def test_integers_strings_and_text_are_adapted_or_inverted(tmp_path):
    number = keras.Input((2,), dtype="int64", name="number")
    text = keras.Input((1,), dtype="string", name="text")
    places = keras.layers.IntegerLookup(vocabulary=[7, -1, 12])(number)
    back = keras.layers.StringLookup(vocabulary=WORDS, invert=True)(places)
    vectors = keras.layers.TextVectorization(
        vocabulary=WORDS[:3], output_sequence_length=4
    )(text)
    model = keras.Model([number, text], [places, back, vectors])
    inputs = {
        "number": np.array([[7, 12], [-1, 5]]),
        "text": strings([[b"dog Cat"], [b"? cat"]]),
    }
    check(model, inputs, tmp_path)


class OwnTable(keras.layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer([3, 1, 2], [0.3, 0.1, 0.2]), -1.0
        )

    def call(self, inputs):
        return self.table.lookup(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, "float32")


def test_a_table_of_an_own_layer_is_saved(tmp_path):
    inputs = keras.Input((2,), dtype="int32", name="x")
    model = keras.Model(inputs, OwnTable()(inputs))
    check(model, {"x": np.array([[1, 2], [3, 4]], "int32")}, tmp_path)


class OwnVariable(keras.layers.Layer):
    """A layer with a variable and a tensor that Keras does not know."""

    def build(self, input_shape):
        self.scale = tf.Variable(np.linspace(1, 2, input_shape[-1], dtype="float32"))
        self.shift = tf.constant(np.linspace(0, 9, input_shape[-1], dtype="float32"))

    def call(self, inputs):
        return inputs * self.scale + self.shift


@pytest.mark.parametrize("constants", [False, True])
def test_variables_and_tensors_of_an_own_layer_are_saved(tmp_path, constants):
    inputs = keras.Input((5000,), name="x")
    model = keras.Model(inputs, OwnVariable()(inputs))
    x = np.random.default_rng(0).random((2, 5000), "float32")
    check(model, {"x": x}, tmp_path, constants=constants)


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_the_states_of_a_recurrent_layer_are_outputs(tmp_path, layer):
    sequence = keras.Input((5, 3), name="sequence")
    outputs = layer(4, return_state=True, return_sequences=True)(sequence)
    model = keras.Model(sequence, outputs)
    x = np.random.default_rng(0).random((2, 5, 3), "float32")
    check(model, {"sequence": x}, tmp_path)
    outputs = read_manifest(tmp_path / "m" / "1")["signatures"]["serving_default"][
        "outputs"
    ]
    shapes = [x["shape"] for x in outputs.values()]
    assert shapes == [[None, 5, 4], *[[None, 4]] * (len(shapes) - 1)]


@pytest.mark.parametrize("size", [1, 3])
def test_a_model_with_a_fixed_batch_size_can_be_exported(tmp_path, size):
    inputs = keras.Input(batch_shape=(size, 6, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.Flatten()(BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    loaded = check(model, {"image": images(size)}, tmp_path)
    assert set(loaded.signatures) == {
        *("serving_default", "predict_uint8", "predict_encoded", "classify")
    }
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded(image=images(size + 1))


class BatchMean(keras.layers.Layer):
    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


def test_statistics_of_a_fixed_batch_are_still_refused(tmp_path):
    inputs = keras.Input(batch_shape=(3, 4), name="x")
    with pytest.raises(ValueError, match="must not depend on the other examples"):
        export_saved_model(keras.Model(inputs, BatchMean()(inputs)), tmp_path / "m")


class Counting(keras.layers.Layer):
    def build(self, input_shape):
        self.count = tf.Variable(0.0)

    def call(self, inputs):
        return inputs + self.count.assign_add(1.0)


class Growing(keras.layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.table = tf.lookup.experimental.MutableHashTable(tf.int32, tf.int32, 0)

    def call(self, inputs):
        self.table.insert(inputs, inputs)
        return self.table.lookup(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Remembering(keras.layers.LSTM):
    def __init__(self, name):
        super().__init__(2, stateful=True, name=name)


@pytest.mark.parametrize("layer", [Counting, Growing, Remembering])
def test_a_state_that_changes_is_refused(tmp_path, layer):
    shape = (1, 3, 2) if layer is Remembering else (None, 2)
    dtype = "int32" if layer is Growing else "float32"
    inputs = keras.Input(batch_shape=shape, dtype=dtype)
    model = keras.Model(inputs, layer(name="suspect")(inputs))
    with pytest.raises(ValueError, match=r"a stateful operation.*suspect"):
        export_saved_model(model, tmp_path / "m")


class Decode(keras.layers.Layer):
    def call(self, inputs):
        return tf.map_fn(
            lambda x: tf.io.decode_raw(x, tf.float32)[:2], inputs, tf.float32
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, 2), "float32")


def test_a_model_that_refuses_random_inputs_is_exported_with_samples(tmp_path):
    inputs = keras.Input((), dtype="string", name="x")
    model = keras.Model(inputs, Decode()(inputs))
    with (
        pytest.warns(UserWarning, match="The folded model was not compared"),
        pytest.raises(ValueError, match=r"accept the samples.*Pass `samples=`"),
    ):
        export_saved_model(model, tmp_path / "m")
    x = strings([np.ones(2, "float32").tobytes(), np.zeros(2, "float32").tobytes()])
    check(model, {"x": x}, tmp_path, samples=x)
