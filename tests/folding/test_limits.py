"""What cannot be folded is kept, rejected or left a multiply-add, and reported."""

import threading

import keras
import numpy as np
import pytest
from folding_checks import fold_and_compare, roughen
from keras import layers

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

pytestmark = pytest.mark.fast


def test_normalization_called_in_training_mode_is_kept_and_reported():
    inputs = keras.Input((4,))
    x = BatchNormalization(name="kept")(layers.Dense(3)(inputs), training=True)
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3), BatchNormalization()])
    model = roughen(keras.Model(inputs, inner(x, training=True)))
    result = fold_and_compare(model, 1e-5, folded=0, left=2)
    for entry in result.report.entries:
        assert entry.outcome == "kept"
        assert entry.reason == "it is called with training=True"


class NormalizingCell(layers.Layer):
    """An RNN cell with a batch normalization."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 3
        self.dense, self.bn = layers.Dense(3), BatchNormalization(name="inside")

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1]))
        self.bn.build((None, 3))

    def call(self, inputs, states):
        output = self.bn(self.dense(inputs) + states[0])
        return output, [output]


def test_normalization_inside_a_recurrent_cell_is_kept_and_reported():
    inputs = keras.Input((5, 4))
    x = layers.RNN(NormalizingCell(), name="steps")(layers.Dense(3)(inputs))
    model = roughen(keras.Model(inputs, BatchNormalization()(layers.Dense(2)(x))))
    result = fold_and_compare(model, 1e-5, folded=1, left=1)
    kept = result.report.entries[0]
    assert (kept.layer, kept.outcome) == ("steps/inside", "kept")
    assert kept.reason == "it is inside 'steps' (RNN)"


@keras.saving.register_keras_serializable("tests")
class Doubling(layers.Dense):
    """A dense layer with a different `call`."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable("tests")
class CustomNormalization(BatchNormalization):
    """A subclass of the normalization."""


def test_subclasses_of_known_layers_are_not_folded():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, BatchNormalization()(Doubling(3)(inputs)))
    result = fold_and_compare(roughen(model), 1e-5, folded=0, left=1)
    assert "Doubling" in result.report.entries[0].reason
    model = keras.Model(inputs, CustomNormalization()(layers.Dense(3)(inputs)))
    result = fold_and_compare(roughen(model), 1e-5, folded=0, left=1)
    assert result.report.entries[0].outcome == "kept"


def test_a_fold_that_overflows_float16_stays_a_multiply_add():
    inputs = keras.Input((3,))
    normalization = BatchNormalization(epsilon=1e-12, dtype="mixed_float16")
    x = layers.Dense(3, dtype="mixed_float16", name="dense")(inputs)
    model = keras.Model(inputs, normalization(x))
    normalization.moving_variance.assign([1e-12, 1.0, 1.0])
    model.layers[1].kernel.assign(np.eye(3))
    small = np.full((1, 3), 1e-3, "float32")
    result = fold_and_compare(model, 1e-3, folded=0, left=1, inputs=small)
    reason = result.report.entries[0].reason
    assert "kernel of 'dense' is not finite in float16" in reason


def test_a_normalization_that_changes_the_dtype_stays_a_multiply_add():
    inputs = keras.Input((3,))
    x = layers.Dense(3, dtype="mixed_float16")(inputs)
    x = BatchNormalization(dtype="float32")(x)
    model = roughen(keras.Model(inputs, x), wide=False)
    result = fold_and_compare(model, 1e-3, folded=0, left=1)
    assert "converts float16 into float32" in result.report.entries[0].reason


def test_invalid_statistics_are_reported():
    inputs = keras.Input((3,))
    normalization = BatchNormalization()
    model = keras.Model(inputs, normalization(layers.Dense(3)(inputs)))
    normalization.moving_variance.assign([-1.0, 1.0, 1.0])
    report = fold_batch_normalization(model).report
    assert "not finite" in report.entries[0].reason


def test_models_without_a_graph_are_rejected_with_advice():
    class Own(keras.Model):
        def call(self, inputs):
            return keras.ops.convert_to_numpy(inputs)

    with pytest.raises(TypeError, match=r"Received: Own; it was never called on data"):
        fold_batch_normalization(Own())
    model = Own()
    model.build((None, 3))
    with pytest.raises(TypeError, match=r"Received: Own; its `call` is not made of"):
        fold_batch_normalization(model)
    with pytest.raises(TypeError, match=r"Received: Dense; it is not a keras\.Model"):
        fold_batch_normalization(layers.Dense(3))


def test_models_that_are_not_built_are_rejected_with_advice():
    model = keras.Sequential([layers.Dense(3)], name="open")
    with pytest.raises(ValueError, match=r"unbuilt Sequential 'open'.*keras\.Input"):
        fold_batch_normalization(model)


def test_a_layer_that_cannot_be_copied_is_named():
    class NoCopy(layers.Layer):
        def __init__(self, function, /):
            super().__init__(name="odd")
            self.function, self.lock = function, threading.Lock()

        def call(self, inputs):
            return self.function(inputs)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, NoCopy(keras.ops.relu)(inputs))
    with pytest.raises(ValueError, match=r"get_config.*Received: 'odd' \(NoCopy\)"):
        fold_batch_normalization(model)
