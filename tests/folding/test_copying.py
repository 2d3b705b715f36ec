"""Layers that folding does not change are copied whole and share nothing."""

import keras
import numpy as np
from folding_checks import fold_and_compare, inputs_of, roughen
from keras import layers, ops

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization
from bn_keras.keras_graph import Copier


class Gate(layers.Layer):
    """A layer whose configuration is incomplete: it has none of its arguments."""

    def __init__(self, units=2, power=1, function=ops.sigmoid):
        super().__init__()
        self.units, self.power, self.function = units, power, function
        self.inner = {"dense": layers.Dense(units), "list": [layers.Dense(units)]}
        self.dropout = layers.Dropout(0.5, seed=1)
        self.method = self.weigh

    def build(self, input_shape):
        self.inner["dense"].build(input_shape)
        self.inner["list"][0].build((*input_shape[:-1], self.units))
        self.scale = self.add_weight(shape=(self.units,), name="scale")

    def weigh(self, x):
        return self.scale * x**self.power

    def call(self, inputs, training=None):
        x = self.inner["list"][0](self.inner["dense"](inputs))
        return self.method(self.function(self.dropout(x, training=training)))

    def get_config(self):
        return {}


def gated(**arguments):
    inputs = keras.Input((4,))
    gate = Gate(**arguments)
    x = gate(BatchNormalization()(layers.Dense(3)(inputs)))
    return roughen(keras.Model(inputs, x)), gate


def test_a_layer_with_an_incomplete_configuration_is_copied_with_its_attributes():
    model, _ = gated(units=5, power=2, function=ops.tanh)
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    (copied,) = (x for x in result.model.layers if isinstance(x, Gate))
    assert (copied.units, copied.power) == (5, 2)


def test_training_the_original_does_not_change_the_folded_model_or_conversely():
    model, gate = gated(units=3)
    folded = fold_batch_normalization(model).model
    inputs = inputs_of(model)
    for one, other in ((model, folded), (folded, model)):
        before = np.array(other(inputs))
        one.compile(keras.optimizers.SGD(1.0), "mse")
        one.fit(inputs, np.ones((3, 3)), verbose=0)
        assert not np.array_equal(one(inputs), before)
        np.testing.assert_array_equal(other(inputs), before)
    gate.power = 3
    np.testing.assert_array_equal(folded(inputs), folded(inputs))


def test_a_copy_is_a_complete_layer(tmp_path):
    _, gate = gated(units=3)
    copied = Copier().copy(gate, "copy")
    assert copied.name == "copy"
    assert copied.method.__self__ is copied
    assert copied.inner["dense"] is not gate.inner["dense"]
    assert [x.path for x in copied.variables] == [x.path for x in gate.variables]
    assert len(copied.trainable_variables) == 5
    copied.trainable = False
    assert not copied.trainable_variables
    assert gate.trainable_variables
    copied.trainable = True
    inputs = keras.Input((3,))
    alone = keras.Model(inputs, copied(inputs))
    alone.save_weights(tmp_path / "copy.weights.h5")
    before = np.array(alone(np.ones((1, 3))))
    copied.scale.assign([0, 0, 0])
    alone.load_weights(tmp_path / "copy.weights.h5")
    np.testing.assert_array_equal(alone(np.ones((1, 3))), before)
    # New variables are registered, as in any layer.
    copied._tracker.unlock()
    copied.other = copied.add_weight(shape=(1,), name="other")
    assert len(copied.trainable_variables) == 6
    assert len(gate.trainable_variables) == 5


def test_what_two_layers_share_their_copies_share():
    class Reader(layers.Layer):
        """Uses the weights of another layer."""

        def __init__(self, source):
            super().__init__()
            self.source = source

        def call(self, inputs):
            return inputs @ ops.transpose(self.source.kernel)

    inputs = keras.Input((4,))
    dense = layers.Dense(3, name="dense")
    x = BatchNormalization()(layers.Dense(4)(inputs))
    model = roughen(keras.Model(inputs, Reader(dense)(dense(x))))
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    (reader,) = (x for x in result.model.layers if isinstance(x, Reader))
    assert reader.source is result.model.get_layer("dense")


def test_a_compiled_model_inside_a_layer_is_copied_without_its_optimizer():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            # NumPy cannot be opened, and there is nothing to open it for.
            return self.dense(inputs)

        def get_config(self):
            raise NotImplementedError

    own = Own()
    own.compile("adam", "mse")
    own.fit(np.ones((2, 3)), np.ones((2, 3)), verbose=0)
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3)(inputs))
    model = keras.Model(inputs, own(x))
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    (copied,) = (x for x in result.model.layers if isinstance(x, Own))
    assert copied.optimizer is None
    assert own.optimizer is not None


def test_a_functional_model_inside_a_layer_is_copied():
    class Around(layers.Layer):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def call(self, inputs):
            return 2 * self.model(inputs)

    start = keras.Input((3,))
    inner = keras.Model(start, layers.Dense(2, activation="tanh")(start))
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3)(inputs))
    model = roughen(keras.Model(inputs, Around(inner)(x)))
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_layers_of_keras_without_a_configuration_are_copied():
    # Keras' default `get_config` does not accept an object as an argument.
    policy = keras.dtype_policies.get("float32")
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3)(layers.Identity(dtype=policy)(inputs)))
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=1, left=0)


def test_a_variable_among_the_arguments_of_an_operation_becomes_a_constant():
    inputs = keras.Input((4,))
    weight = keras.Variable(np.arange(3.0, dtype="float32"))
    x = layers.ReLU()(BatchNormalization()(layers.Dense(3)(inputs)))
    model = roughen(keras.Model(inputs, x * weight))
    folded = fold_and_compare(model, 1e-5, folded=1, left=0).model
    before = np.array(folded(np.ones((1, 4))))
    weight.assign([5, 5, 5])
    np.testing.assert_array_equal(folded(np.ones((1, 4))), before)


def double(x):
    return 2 * x


def test_a_lambda_with_a_function_that_keras_cannot_find_is_copied():
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3)(layers.Lambda(double)(inputs)))
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=1, left=0)
