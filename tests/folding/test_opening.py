"""Subclassed layers and models are replaced by the calls that they make."""

import keras
import numpy as np
import pytest
from folding_checks import all_layers, fold_and_compare, relative_difference, roughen
from keras import layers, ops

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

IMAGE = (6, 7, 4)


class Block(layers.Layer):
    """Convolution, normalization, activation and a shortcut."""

    def __init__(self, filters=4, kind=BatchNormalization, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.bn = kind(name="bn")

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.bn.build((*input_shape[:-1], self.conv.filters))

    def call(self, inputs, training=None):
        x = self.bn(self.conv(inputs), training=training)
        return inputs + ops.relu(x)


class Stack(layers.Layer):
    """Blocks in a list, and a model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(name=f"block_{i}") for i in range(2)]
        self.head = keras.Sequential(
            [layers.Conv2D(3, 1, name="last"), BatchNormalization(name="last_bn")],
            name="head",
        )

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
        self.head.build(input_shape)

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return {"features": inputs, "last": self.head(inputs)}


def around(layer, shape=IMAGE, **arguments):
    inputs = keras.Input(shape)
    return roughen(keras.Model(inputs, layer(inputs, **arguments)))


def nodes_of(model):
    return [
        (layer, len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in all_layers(model)
    ]


@pytest.mark.parametrize("kind", [BatchNormalization, layers.BatchNormalization])
def test_normalization_inside_a_subclassed_layer_folds(kind):
    result = fold_and_compare(around(Block(kind=kind, name="block")), 1e-5, 1, 0)
    (entry,) = result.report.entries
    assert (entry.layer, entry.into) == ("block/bn", ("block/conv",))
    assert not [x for x in result.model.layers if isinstance(x, Block)]


def test_layers_inside_layers_lists_and_models_are_opened():
    result = fold_and_compare(around(Stack(name="stack")), 1e-5, folded=3, left=0)
    assert [x.layer for x in result.report.entries] == [
        "stack/block_0/bn",
        "stack/block_1/bn",
        "stack/head/last_bn",
    ]


def test_opening_leaves_the_original_as_it_is():
    model = around(Stack())
    nodes = nodes_of(model)
    attributes = [(x, dict(vars(x))) for x in all_layers(model)]
    fold_batch_normalization(model)
    assert nodes_of(model) == nodes
    for layer, before in attributes:
        assert vars(layer).keys() == before.keys()
        assert all(vars(layer)[key] is before[key] for key in before)


def test_a_layer_that_is_called_twice_is_opened_twice():
    inputs = keras.Input(IMAGE)
    block = Block(name="block")
    model = roughen(keras.Model(inputs, block(block(inputs))))
    result = fold_and_compare(model, 1e-5, folded=2, left=0)
    assert len([x for x in result.model.layers if isinstance(x, layers.Conv2D)]) == 1


class Own(keras.Model):
    """A subclassed model with a dictionary of outputs."""

    def __init__(self):
        super().__init__(name="own")
        self.stack = Stack(name="stack")
        self.dense = layers.Dense(3, name="dense")
        self.bn = BatchNormalization(name="bn")

    def call(self, inputs, training=None):
        x = self.stack(inputs)["last"]
        return {"scores": self.bn(self.dense(ops.mean(x, axis=(1, 2)))), "map": x}


def called(model, *shape):
    model(np.zeros(shape, "float32"))
    return roughen(model)


def test_a_subclassed_model_becomes_a_functional_model(tmp_path):
    model = called(Own(), 2, *IMAGE)
    images = np.random.default_rng(0).normal(size=(3, *IMAGE)).astype("float32")
    result = fold_batch_normalization(model)
    assert (result.report.folded, result.report.left) == (4, 0)
    assert result.model.name == "own"
    assert result.model.input.name == "inputs"
    assert result.model.input.shape == (None, *IMAGE)
    assert set(result.model.output) == {"scores", "map"}
    assert relative_difference(model(images), result.model(images)) <= 1e-5
    result.model.save(tmp_path / "own.keras")
    loaded = keras.models.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(
        loaded(images)["scores"], result.model(images)["scores"]
    )


def test_a_subclassed_model_with_several_inputs_keeps_their_structure():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = layers.Dense(3), layers.Dense(3)
            self.bn = BatchNormalization()

        def call(self, inputs):
            return self.bn(self.one(inputs["a"]) + self.other(inputs["b"]))

    model = Two()
    inputs = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 5), "float32")}
    model(inputs)
    result = fold_batch_normalization(roughen(model))
    assert (result.report.folded, result.report.left) == (1, 0)
    assert {key: x.name for key, x in result.model.input.items()} == {
        "a": "a",
        "b": "b",
    }
    assert relative_difference(model(inputs), result.model(inputs)) <= 1e-5


def test_a_functional_model_with_another_call_is_opened():
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training)

    inputs = keras.Input((4,), name="image")
    x = BatchNormalization()(layers.Dense(3)(inputs))
    model = roughen(Doubled(inputs, x))
    values = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    result = fold_batch_normalization(model)
    assert (result.report.folded, result.report.left) == (1, 0)
    assert result.model.input.name == "image"
    assert relative_difference(model(values), result.model(values)) <= 1e-5


def test_a_layer_casts_its_inputs_as_before():
    inputs = keras.Input(IMAGE)
    x = layers.Conv2D(4, 1, dtype="mixed_float16")(inputs)
    x = Block(dtype="float32")(x)
    model = roughen(keras.Model(inputs, x), wide=False)
    fold_and_compare(model, 1e-3, folded=1, left=0)


class Awkward(layers.Layer):
    """Convolution and normalization around a function that is not opened."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.conv, self.bn = layers.Conv2D(4, 1), BatchNormalization(name="bn")
        self.count = self.add_weight(
            shape=(), name="count", trainable=False, initializer="zeros"
        )
        self.log = []

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.bn.build((*input_shape[:-1], 4))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)

    def call(self, inputs):
        return self.function(self, self.bn(self.conv(inputs)))


def with_numpy(layer, x):
    return ops.convert_to_tensor(np.abs(ops.convert_to_numpy(x)))


def with_assignment(layer, x):
    layer.count.assign(layer.count + 1)
    return x


def with_attribute(layer, x):
    layer.last = x
    return x


def with_list(layer, x):
    layer.log.append(x)
    return x


AWKWARD = {
    "numpy": (with_numpy, "is not made of layers and keras.ops"),
    "control flow on the batch": (
        lambda layer, x: x if x.shape[0] > 1 else -x,
        "is not made of layers and keras.ops",
    ),
    "a variable": (with_assignment, "changes variables"),
    "an attribute": (with_attribute, "sets attributes (last)"),
    "a list": (with_list, "sets attributes (log)"),
    "a number": (lambda layer, x: [x, 1.0], "returns more than tensors"),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_a_layer_that_does_more_is_kept_as_it_is_and_reported(name):
    function, reason = AWKWARD[name]
    layer = Awkward(function, name="odd")
    # As for a layer with a `compute_output_spec` of its own, whose `call` is not run.
    layer.compute_output_spec = lambda x: keras.KerasTensor(x.shape, x.dtype)
    inputs = keras.Input(IMAGE)
    x = layers.ReLU()(BatchNormalization()(layers.Conv2D(4, 1)(inputs)))
    model = roughen(keras.Model(inputs, layer(x)))
    count = float(layer.count)
    result = fold_batch_normalization(model, check=False)
    assert (result.report.folded, result.report.left) == (1, 1)
    kept = result.report.entries[1]
    assert (kept.layer, kept.outcome) == ("odd/bn", "kept")
    assert kept.reason.startswith(
        "it is inside 'odd' (Awkward), which cannot be opened"
    )
    assert reason in kept.reason
    assert layer.log == []
    assert not hasattr(layer, "last")
    assert layer.count == count


def test_a_layer_that_computes_something_else_for_numbers_is_kept():
    class Sly(Block):
        """Shows symbolic tensors something else than it computes."""

        def call(self, inputs):
            x = super().call(inputs)
            return x if isinstance(x, keras.KerasTensor) else -x

    inputs = keras.Input(IMAGE)
    x = Block(name="plain")(Sly(name="sly")(inputs))
    model = roughen(keras.Model(inputs, x))
    result = fold_and_compare(model, 1e-5, folded=0, left=2)
    assert "the calls inside it have other outputs" in result.report.entries[0].reason


def test_a_layer_called_in_training_mode_is_kept():
    model = around(Block(name="block"), training=True)
    result = fold_batch_normalization(model)
    assert result.report.left == 1
    assert "is called with training=True" in result.report.entries[0].reason


def test_a_layer_that_a_mask_reaches_is_kept():
    class Steps(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True
            self.dense, self.bn = layers.Dense(4), BatchNormalization(name="bn")

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.bn.build((*input_shape[:-1], 4))

        def call(self, inputs, mask=None):
            return self.bn(self.dense(inputs))

    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(4, 5, mask_zero=True)(tokens)
    model = roughen(keras.Model(tokens, layers.LSTM(3)(Steps()(x))))
    values = np.array([[1, 2, 3, 0, 0, 0], [3, 1, 2, 2, 1, 1]], "int32")
    result = fold_and_compare(model, 1e-5, folded=0, left=1, inputs=values)
    assert "is called with a mask" in result.report.entries[0].reason


def test_layers_inside_one_that_cannot_be_opened_are_folded_in_its_copy():
    class Encoder(layers.Layer):
        """Needs sizes that are unknown in a graph, around blocks that do not."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.blocks = {"first": Block(name="first")}
            self.last = keras.Sequential(
                [layers.Conv2D(4, 1, name="c"), BatchNormalization(name="b")],
                name="last",
            )
            self.bn = BatchNormalization(name="bn")

        def build(self, input_shape):
            self.blocks["first"].build(input_shape)
            self.last.build(input_shape)
            self.bn.build(input_shape)

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape, inputs.dtype)

        def call(self, inputs):
            _, height, width, channels = ops.shape(inputs)
            x = self.last(self.blocks["first"](inputs))
            x = ops.reshape(x, (-1, height * width, channels))
            return self.bn(ops.reshape(x, (-1, height, width, channels)))

    inputs = keras.Input((None, None, 4))
    model = roughen(keras.Model(inputs, Encoder(name="encoder")(inputs)))
    result = fold_and_compare(model, 1e-5, folded=2, left=1)
    assert [(x.layer, x.outcome, x.into) for x in result.report.entries] == [
        ("encoder/first/bn", "folded", ("encoder/first/conv",)),
        ("encoder/last/b", "folded", ("encoder/last/c",)),
        ("encoder/bn", "kept", ()),
    ]
    (encoder,) = (x for x in result.model.layers if type(x) is Encoder)
    assert isinstance(encoder.blocks["first"], keras.Model)


def test_a_layer_that_passes_its_layers_to_an_operation_is_kept():
    class Mapped(Block):
        """Calls a layer for each example, inside an operation."""

        def call(self, inputs):
            x = ops.map(lambda image: self.conv(image[None])[0], inputs)
            return self.bn(x)

    inputs = keras.Input(IMAGE, batch_size=2)
    model = roughen(keras.Model(inputs, Mapped(name="mapped")(inputs)))
    result = fold_and_compare(model, 1e-5, 0, 1, np.ones((2, *IMAGE), "float32"))
    assert "passes a function to" in result.report.entries[0].reason


@pytest.mark.parametrize(("size", "opened"), [(8, True), (300, False)])
def test_small_variables_become_constants_and_large_ones_keep_a_layer(size, opened):
    class Own(layers.Layer):
        """Multiplies by its own matrix."""

        def __init__(self):
            super().__init__(name="own")
            self.dense, self.bn = layers.Dense(size), BatchNormalization(name="bn")

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.bn.build((None, size))
            self.matrix = self.add_weight(shape=(size, size), name="matrix")

        def call(self, inputs):
            return ops.matmul(self.bn(self.dense(inputs)), self.matrix)

    model = around(Own(), (4,))
    result = fold_and_compare(model, 1e-5, folded=int(opened), left=int(not opened))
    if not opened:
        assert "large variables" in result.report.entries[0].reason
