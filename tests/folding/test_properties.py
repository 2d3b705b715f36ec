"""Folding does not change the outputs of random graphs."""

import keras
import numpy as np
import pytest
from folding_checks import fold_and_compare, roughen
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from bn_keras import BatchNormalization


class Block(layers.Layer):
    """A layer of Python code, to be opened."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = layers.Conv2D(4, 1), BatchNormalization()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.bn.build((*input_shape[:-1], 4))

    def call(self, inputs):
        return self.bn(self.conv(inputs)) * 0.5


UNARY = [
    BatchNormalization,
    layers.BatchNormalization,
    lambda: BatchNormalization(axis=(1, 2, 3)),
    lambda: layers.Conv2D(4, 3, padding="same"),
    lambda: layers.Conv2D(4, 2, strides=2, padding="same", use_bias=False),
    lambda: layers.Conv2D(4, 1, activation="relu"),
    lambda: layers.DepthwiseConv2D(2, padding="same"),
    lambda: layers.SeparableConv2D(4, 3, padding="same"),
    lambda: layers.Conv2DTranspose(4, 2, strides=2),
    lambda: layers.Dense(4),
    lambda: layers.EinsumDense("...x,xy->...y", 4),
    layers.ReLU,
    lambda: layers.AveragePooling2D(2, 1, padding="same"),
    lambda: layers.MaxPooling2D(2, 1, padding="same"),
    lambda: layers.ZeroPadding2D(1),
    lambda: layers.Dropout(0.5),
    lambda: layers.Rescaling(0.5, 2.0),
    lambda: lambda x: 3.0 - x * np.linspace(1, 2, x.shape[-1]),
    lambda: lambda x: x + np.linspace(-1, 1, x.shape[1])[:, None, None],
    lambda: lambda x: ops.mean(x, axis=1, keepdims=True),
    lambda: lambda x: ops.transpose(x, (0, 2, 1, 3)),
    lambda: lambda x: ops.reshape(x, (-1, x.shape[2], x.shape[1], x.shape[3])),
    lambda: layers.TimeDistributed(layers.Conv1D(4, 1)),
    lambda: layers.TimeDistributed(BatchNormalization()),
    lambda: Block(),
]
ADD, SUBTRACT, AVERAGE, CONCATENATE, SHARE, NEST = range(6)
MERGES = {
    ADD: lambda x, y: layers.Add()([x, y]),
    SUBTRACT: lambda x, y: x - y,
    AVERAGE: lambda x, y: layers.Average()([x, y]),
}
STEP = st.one_of(
    st.sampled_from(UNARY[:2]), st.sampled_from(UNARY), st.sampled_from(range(6))
)
PICK = st.integers(0, 99)


def grow(x, plan):
    """Apply `(step, pick, pick)` to earlier tensors; return the last two tensors."""
    tensors, shared = [x], []
    for step, one, other in plan:
        x, y = tensors[-1 - one % 2 * (len(tensors) > 1)], tensors[other % len(tensors)]
        same_size = x.shape[1:3] == y.shape[1:3]
        if step in MERGES and same_size and x.shape == y.shape:
            x = MERGES[step](x, y)
        elif step == CONCATENATE and same_size and x.shape[-1] < 9:
            x = layers.Concatenate()([x, y])
        elif step == SHARE and shared:
            layer, shape = shared[other % len(shared)]
            if shape != x.shape:
                continue
            x = layer(x)
        elif step == NEST:
            inner = keras.Input(x.shape[1:])
            steps = [layers.Conv2D(4, 2), BatchNormalization(), layers.ReLU()]
            y = inner
            for layer in steps[other % 2 :]:
                y = layer(y)
            x = keras.Model(inner, y)(x)
        elif callable(step):
            layer = step()
            if isinstance(layer, keras.Layer):
                shared.append((layer, x.shape))
            x = layer(x)
        tensors.append(x)
    return tensors[-2:]


PLANS = st.lists(st.tuples(STEP, PICK, PICK), min_size=2, max_size=10)


def check_that_folding_keeps_the_outputs(plan, head):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    try:
        inputs = keras.Input((6, 6, 4))
        outputs = grow(inputs, plan)
        if head:
            outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(outputs[-1]))
        model = roughen(keras.Model(inputs, outputs))
        fold_and_compare(model, 1e-9)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(PLANS, st.booleans())
def test_random_graphs_have_the_same_outputs_when_folded(plan, head):
    check_that_folding_keeps_the_outputs(plan, head)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(PLANS, st.booleans())
def test_many_random_graphs_have_the_same_outputs_when_folded(plan, head):
    check_that_folding_keeps_the_outputs(plan, head)
