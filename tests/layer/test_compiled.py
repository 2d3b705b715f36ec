"""What runs where: TensorFlow graphs for other devices, and compiled programs."""

import re

import keras
import numpy as np
import pytest
from normalization_oracle import TENSORFLOW, oracle, tensorflow_only

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization
SHAPE = (16, 16, 16, 64)


def training_step(layer, shape=SHAPE):
    """Return a function of `x, dy` that returns the outputs and all gradients."""
    import tensorflow as tf

    layer.build((None, *shape[1:]))
    weights = [variable.value for variable in layer.trainable_variables]

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            y = layer(x, training=True)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    return step


def traced_operations(layer, device, dtype="float32", shape=SHAPE):
    """Return the operations of a training step that was traced for a device."""
    import tensorflow as tf

    step = training_step(layer, shape)

    def on_device(x, dy):
        with tf.device(device):
            return step(x, dy)

    spec = tf.TensorSpec((None, *shape[1:]), dtype)
    graph = tf.function(on_device).get_concrete_function(spec, spec).graph
    nodes = list(graph.as_graph_def().node)
    for function in graph.as_graph_def().library.function:
        nodes += function.node_def
    return nodes


@pytest.fixture
def machine_with_a_gpu(monkeypatch):
    import tensorflow as tf

    listed = tf.config.list_logical_devices
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: ["GPU:0"] if kind == "GPU" else listed(kind),
    )


@tensorflow_only
@pytest.mark.parametrize(
    ("device", "channels_per_row"), [("/GPU:0", 10), ("/CPU:0", 20)]
)
def test_the_device_of_the_tensor_decides(device, channels_per_row, machine_with_a_gpu):
    # On a CPU two positions of 10 channels are one of 20, because 4 divides that.
    shape = (*SHAPE[:-1], 10)
    nodes = traced_operations(BatchNormalization(), device, shape=shape)
    kernels = [node for node in nodes if node.op == "FusedBatchNormV3"]
    assert kernels
    assert (len(kernels) > 2) == (channels_per_row == 20)  # moments, then outputs


@tensorflow_only
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_uses_the_mixed_form_of_the_fused_kernel(dtype):
    nodes = traced_operations(
        BatchNormalization(dtype=f"mixed_{dtype}"), "/GPU:0", dtype
    )
    kernels = [n for n in nodes if n.op in ("FusedBatchNormV3", "FusedBatchNormGradV3")]
    import tensorflow as tf

    for kernel in kernels:
        assert tf.as_dtype(kernel.attr["T"].type).name == dtype
        assert tf.as_dtype(kernel.attr["U"].type).name == "float32"
    # No copy of the batch in float32: only small tensors are cast.
    assert {kernel.op for kernel in kernels} == {
        "FusedBatchNormV3",
        "FusedBatchNormGradV3",
    }


@tensorflow_only
def test_where_the_fused_kernel_does_not_serve_a_gpu_runs_a_compiled_formula():
    nodes = traced_operations(BatchNormalization(dtype="float64"), "/GPU:0", "float64")
    compiled = [n for n in nodes if n.attr["_XlaMustCompile"].b]
    assert len(compiled) == 2  # forward and backward
    assert not any(node.op.startswith("FusedBatchNorm") for node in nodes)
    on_cpu = traced_operations(BatchNormalization(dtype="float64"), "/CPU:0", "float64")
    assert not any(n.attr["_XlaMustCompile"].b for n in on_cpu)


@tensorflow_only
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mean", [0.0, 200.0])
def test_the_mixed_form_is_as_exact_as_a_cast_copy(dtype, mean):
    import tensorflow as tf

    x, dy = np.random.default_rng(0).normal(size=(2, *SHAPE))
    x = tf.cast(x + mean, dtype)
    layer = BatchNormalization(momentum=0.0, dtype=f"mixed_{dtype}")
    layer.build((None, *SHAPE[1:]))
    exact = tf.cast(x, "float64").numpy()
    shape = (1, 1, 1, SHAPE[-1])
    expected = oracle(exact, np.ones(shape), np.zeros(shape), dy, (0, 1, 2), 1e-3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    gradient = tape.gradient(y, x, tf.cast(dy, dtype))
    assert y.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(
        layer.moving_mean, expected.mean.ravel(), rtol=1e-5, atol=1e-5
    )
    variance = expected.variance.ravel() * (4096 / 4095)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)
    step = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]  # one unit in the last place
    for value, exact_value in (
        (y, expected.outputs),
        (gradient, expected.inputs_gradient),
    ):
        value = tf.cast(value, "float64").numpy()
        limit = 2 * step * max(1, np.abs(exact_value).max())
        assert np.abs(value - exact_value).max() < limit


def batches_moved(text, shape):
    """Return how often the main computation of an HLO reads or writes a whole batch."""
    entry = text[text.index("ENTRY") :]
    size = re.escape(f"[{','.join(map(str, shape))}]")
    moved = 0
    for line in entry.splitlines()[1:]:
        if re.search(r" (parameter|tuple|get-tuple-element|bitcast)\(", line):
            continue
        moved += len(re.findall(size, line.partition(", calls=")[0]))
    return moved


@tensorflow_only
@pytest.mark.slow
def test_xla_moves_no_more_memory_than_for_keras_layer_on_tensorflow():
    import tensorflow as tf

    x, dy = (tf.random.normal(SHAPE) for _ in range(2))
    moved = {}
    for layer in (BatchNormalization, KERAS):
        step = tf.function(training_step(layer()), jit_compile=True)
        step(x, dy)
        text = step.experimental_get_compiler_ir(x, dy)(stage="optimized_hlo")
        moved[layer] = batches_moved(text, SHAPE)
    assert 0 < moved[BatchNormalization] <= moved[KERAS]


def compiled_on_jax(layer):
    import jax

    layer.build(SHAPE)
    state = [
        [variable.value for variable in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    ]

    @jax.jit
    def step(x, dy, state):
        def forward(x, trainable):
            return layer.stateless_call(trainable, state[1], x, training=True)

        y, backward, statistics = jax.vjp(forward, x, state[0], has_aux=True)
        return y, statistics, backward(dy)

    spec = jax.ShapeDtypeStruct(SHAPE, "float32")
    return step.lower(spec, spec, state).compile()


@pytest.mark.skipif(TENSORFLOW, reason="tests JAX only")
def test_xla_moves_no_more_memory_than_for_keras_layer_on_jax():
    size = 4 * np.prod(SHAPE)
    tensors, temporary = {}, {}
    for layer in (BatchNormalization, KERAS):
        compiled = compiled_on_jax(layer())
        tensors[layer] = compiled.cost_analysis()["bytes accessed"] / size
        temporary[layer] = compiled.memory_analysis().temp_size_in_bytes / size
    # The moving statistics of this layer are small: 64 numbers, several times.
    assert tensors[BatchNormalization] <= tensors[KERAS] + 0.1
    assert temporary[BatchNormalization] <= temporary[KERAS] + 0.1
    assert tensors[BatchNormalization] < 21
