"""Models with nested, shared, masked and stateful layers fold correctly."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from folding_checks import all_layers, fold_and_compare, inputs_of, roughen
from keras import layers

from bn_keras import BatchNormalization
from bn_keras.folding import ScaleShift, fold_batch_normalization


def tower(name="tower", size=4, output="features"):
    """A small nested model with two normalizations."""
    inputs = keras.Input((size,))
    x = layers.Dense(5, name="dense")(inputs)
    x = layers.ReLU(name="relu")(BatchNormalization(name="first")(x))
    x = BatchNormalization(name="second")(layers.Dense(4, name=output)(x))
    return keras.Model(inputs, x, name=name)


def test_nested_models_are_inlined_and_names_stay_unique():
    inputs = keras.Input((4,), name="image")
    x = layers.Dense(4, name="dense")(inputs)
    x = BatchNormalization(name="first")(x)
    outer = keras.Sequential([keras.Input((4,)), tower(), layers.ReLU()], name="outer")
    x = layers.Dense(2, name="classes")(outer(x))
    model = roughen(keras.Model(inputs, x, name="whole"))
    result = fold_and_compare(model, 1e-5, folded=3, left=0)
    assert [entry.layer for entry in result.report.entries] == [
        "first",
        "outer/tower/first",
        "outer/tower/second",
    ]
    assert result.report.entries[1].into == ("outer/tower/dense",)
    assert result.model.name == "whole"
    names = [layer.name for layer in result.model.layers]
    assert {"dense", "outer_tower_dense", "classes"} <= set(names)
    assert not [x for x in result.model.layers if isinstance(x, keras.Model)]


def test_the_output_of_a_nested_model_keeps_its_name():
    inputs = keras.Input((4,), name="image")
    inner = tower("scores", output="scores")
    model = roughen(keras.Model(inputs, inner(inputs)))
    assert model.output_names == ["scores"]
    fold_and_compare(model, 1e-5, folded=2, left=0)


def test_an_output_keeps_the_name_of_its_folded_normalization():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), BatchNormalization(name="answer")]
    )
    result = fold_and_compare(roughen(model), 1e-5, folded=1, left=0)
    assert result.model.output_names == ["answer"]


def test_a_model_called_twice_still_shares_its_folded_layers():
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    shared = tower()
    x = layers.Concatenate()([shared(one), shared(other)])
    model = roughen(keras.Model([one, other], layers.Dense(2)(x)))
    result = fold_and_compare(model, 1e-5, folded=4, left=0)
    assert [x.layer for x in result.report.entries] == [
        "tower/first (call 1)",
        "tower/second (call 1)",
        "tower/first (call 2)",
        "tower/second (call 2)",
    ]
    assert len([x for x in result.model.layers if isinstance(x, layers.Dense)]) == 3
    assert "un-shared" not in str(result.report)


def test_a_layer_shared_by_two_normalizations_is_copied_for_each():
    inputs = keras.Input((4,))
    shared = layers.Dense(3, name="shared")
    one = BatchNormalization()(shared(inputs))
    other = BatchNormalization()(shared(layers.ReLU()(inputs)))
    plain = shared(layers.Activation("tanh")(inputs))
    model = roughen(keras.Model(inputs, [one, other, plain]))
    result = fold_and_compare(model, 1e-5, folded=2, left=0)
    assert len([x for x in result.model.layers if isinstance(x, layers.Dense)]) == 3
    assert result.report.entries[0].rule == "Dense, then BN; un-shared"


def test_each_call_of_a_shared_normalization_folds_by_itself():
    inputs = keras.Input((4,))
    shared = BatchNormalization(name="bn")
    one = shared(layers.Dense(3)(inputs))
    other = shared(layers.Dense(3, activation="relu")(inputs))
    model = roughen(keras.Model(inputs, [one, other]))
    result = fold_and_compare(model, 1e-5, folded=1, left=1)
    outcomes = {x.layer: x.outcome for x in result.report.entries}
    assert outcomes == {"bn (call 1)": "folded", "bn (call 2)": "multiply-add"}


def test_a_linear_layer_whose_output_is_used_elsewhere_is_not_changed():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="dense")(inputs)
    y = layers.ReLU()(BatchNormalization()(x))
    model = roughen(keras.Model(inputs, layers.Add()([x, y])))
    result = fold_and_compare(model, 1e-5, folded=0, left=1)
    assert "'dense' is also used elsewhere" in result.report.entries[0].reason
    model = roughen(keras.Model(inputs, [x, y]))
    result = fold_and_compare(model, 1e-5, folded=0, left=1)
    assert "'dense' is also a model output" in result.report.entries[0].reason


def test_a_folded_normalization_that_is_an_output_blocks_the_next_one():
    inputs = keras.Input((4,))
    first = BatchNormalization()(layers.Dense(3)(inputs))
    model = keras.Model(inputs, [first, BatchNormalization()(first)])
    fold_and_compare(roughen(model), 1e-5, folded=1, left=1)


def test_nested_dictionaries_of_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = BatchNormalization(name="bn")(layers.Dense(3, name="dense")(a))
    outputs = {"x": [x, {"again": x}], "b": b, "sum": (layers.Dense(2)(x) + 1.0,)}
    fold_and_compare(roughen(keras.Model({"a": a, "b": b}, outputs)), 1e-5, 1, 0)
    listed = keras.Model([a, b], [x, b, x])
    fold_and_compare(roughen(listed), 1e-5, 1, 0)
    single = keras.Model([a], [x])
    fold_and_compare(roughen(single), 1e-5, 1, 0)


def test_a_nested_model_that_takes_a_dictionary_is_inlined():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    merged = layers.Concatenate()([layers.Dense(2)(b), layers.Dense(3)(a)])
    outputs = {"z": BatchNormalization()(merged), "passed": b}
    inner = keras.Model({"b": b, "a": a}, outputs, name="inner")
    one, other = keras.Input((4,), name="one"), keras.Input((3,), name="other")
    answers = inner({"a": one, "b": other})
    model = keras.Model([one, other], [answers["z"], answers["passed"]])
    assert model.output_names == ["inner", "inner"]
    fold_and_compare(roughen(model), 1e-5, folded=1, left=0)


def test_a_nested_model_with_a_list_of_inputs_may_be_called_with_a_dictionary():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = layers.Subtract()([layers.Dense(3)(b), layers.ReLU()(layers.Dense(3)(a))])
    inner = keras.Model([b, a], layers.Dense(2)(BatchNormalization()(x)), name="inner")
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    model = keras.Model([one, other], inner({"a": one, "b": other}))
    fold_and_compare(roughen(model), 1e-5, folded=1, left=0)


def test_an_unused_output_of_a_nested_model_does_not_prevent_folding():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    inner = keras.Model(inputs, [BatchNormalization()(x), layers.ReLU()(x)])
    outer = keras.Input((4,))
    model = keras.Model(outer, inner(outer)[0])
    fold_and_compare(roughen(model), 1e-5, folded=1, left=0)


def test_an_unused_input_stays_an_input():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], BatchNormalization()(layers.Dense(3)(a)))
    fold_and_compare(roughen(model), 1e-5, folded=1, left=0)


def test_masks_reach_the_layers_after_a_folded_normalization():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(4, 5, mask_zero=True)(tokens)
    x = BatchNormalization(name="left")(x)
    x = BatchNormalization(name="folded")(layers.Dense(3)(layers.Dropout(0.5)(x)))
    model = roughen(keras.Model(tokens, layers.LSTM(4)(x)))
    with_padding = np.array([[1, 2, 3, 0, 0, 0], [3, 1, 0, 2, 2, 1]], "int32")
    fold_and_compare(model, 1e-5, folded=2, left=0, inputs=with_padding)


# Keras warns that a nested model does not pass masks on; that is the case tested.
@pytest.mark.filterwarnings("ignore:Layer 'inner' .* does not support masking")
def test_a_nested_model_called_with_an_explicit_mask_is_not_inlined():
    steps = keras.Input((6, 4))
    x = layers.LSTM(3)(BatchNormalization(name="inside")(steps))
    inner = keras.Model(steps, x, name="inner")
    inputs, mask = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    model = keras.Model([inputs, mask], inner(inputs, mask=mask))
    roughen(model)
    values = [inputs_of(model)[0], np.arange(6) < np.array([[2], [6], [3]])]
    result = fold_and_compare(model, 1e-5, folded=0, left=1, inputs=values)
    assert result.report.entries[0].layer == "inner/inside"


def test_layers_with_several_arguments_are_called_as_before():
    inputs = keras.Input((6, 4), name="inputs")
    x = BatchNormalization()(layers.Dense(4)(inputs))
    x = layers.MultiHeadAttention(2, 3)(x, inputs, use_causal_mask=True)
    y, *state = layers.Bidirectional(layers.GRU(3, return_state=True))(x)
    z = layers.GRU(3)(x, initial_state=state[0])
    x = layers.Concatenate()([y, z, layers.GlobalMaxPooling1D()(x)])
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=1, left=0)


def test_a_model_between_intermediate_tensors_of_another_model_folds():
    whole = roughen(tower())
    start, end = whole.get_layer("relu").output, whole.get_layer("second").output
    fold_and_compare(keras.Model(start, end), 1e-5, folded=1, left=0)
    part = keras.Model(whole.input, whole.get_layer("first").output)
    fold_and_compare(part, 1e-5, folded=1, left=0)
    doubled = keras.Sequential([keras.Input((4,)), tower("one"), tower("two")])
    fold_and_compare(roughen(doubled), 1e-5, folded=4, left=0)


def test_keras_ops_are_kept():
    inputs = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(3)(inputs))
    x = keras.ops.relu(x) * 2.0 - keras.ops.mean(x, axis=-1, keepdims=True)
    first, second = keras.ops.split(keras.ops.concatenate([x, x], axis=-1), 2, axis=-1)
    x = first[:, 1:] @ np.ones((2, 2), "float32") + second[:, :2]
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=1, left=0)


def test_layers_are_copied_with_their_states_and_functions():
    inputs = keras.Input((4,))
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    x = layers.Dense(3)(normalization(inputs))
    x = layers.Lambda(lambda x: x * 2)(BatchNormalization()(x))
    x = layers.Dropout(0.5, name="dropout")(x)
    model = keras.Model(inputs, x)
    model.layers[2].kernel.assign(np.random.default_rng(1).normal(size=(4, 3)))
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    state, copied = (
        m.get_layer("dropout").seed_generator.state for m in (model, result.model)
    )
    assert copied is not state
    np.testing.assert_array_equal(copied, state)


def test_calls_keep_their_training_argument():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.5)(layers.Dense(300)(inputs), training=True)
    x = BatchNormalization()(x, training=False)
    model = roughen(keras.Model(inputs, layers.ReLU()(x)))
    result = fold_batch_normalization(model)
    assert "training=True" in result.report.entries[0].reason
    ones = np.ones((1, 4), "float32")
    assert not np.array_equal(result.model(ones), result.model(ones))


def test_only_folded_layers_lose_their_constraints_and_regularizers():
    inputs = keras.Input((4,))
    options = {"kernel_regularizer": "l2", "kernel_constraint": "non_neg"}
    x = BatchNormalization()(layers.Dense(3, name="folded", **options)(inputs))
    x = layers.Dense(2, name="other", **options)(layers.ReLU()(x))
    result = fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, 1, 0)
    assert result.model.get_layer("folded").kernel_regularizer is None
    assert result.model.get_layer("folded").kernel_constraint is None
    assert result.model.get_layer("other").kernel_regularizer is not None


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_folds_the_float32_weights(policy):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = layers.ReLU(dtype=policy)(BatchNormalization(dtype=policy)(x))
    model = roughen(keras.Model(inputs, x), wide=False)
    # One unit in the last place of the compute dtype at each of three roundings.
    tolerance = 3 * 2.0 ** (-10 if policy == "mixed_float16" else -7)
    result = fold_and_compare(model, tolerance, folded=1, left=0)
    assert result.model.layers[1].kernel.dtype == "float32"


def test_a_nested_model_with_another_dtype_casts_as_before():
    start = keras.Input((3,))
    x = BatchNormalization()(layers.Dense(2)(keras.ops.exp(start)))
    inner = keras.Model(start, x)
    inputs = keras.Input((3,))
    x = layers.Dense(3, dtype="mixed_float16")(inputs)
    model = roughen(keras.Model(inputs, inner(x)), wide=False)
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_a_folded_model_can_be_saved_and_loaded(tmp_path):
    inputs = keras.Input((5, 6, 3))
    x = BatchNormalization(axis=(1, 3))(layers.ReLU()(inputs))
    x = layers.ReLU()(BatchNormalization(name="bn")(layers.Conv2D(4, 3)(x)))
    result = fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, 1, 1)
    result.model.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    values = inputs_of(result.model)
    np.testing.assert_array_equal(loaded(values), result.model(values))
    (left,) = (x for x in loaded.layers if isinstance(x, ScaleShift))
    assert left.axes == (1, 3)
    assert not left.trainable_variables


def test_a_multiply_add_along_the_last_axis_is_a_layer_of_keras(tmp_path):
    inputs = keras.Input((5, 3), name="image")
    x = layers.ReLU()(BatchNormalization(name="left")(layers.ReLU()(inputs)))
    model = roughen(keras.Model(inputs, x))
    folded = fold_and_compare(model, 1e-6, folded=0, left=1).model
    assert type(folded.get_layer("left")) is layers.Rescaling
    values = inputs_of(model)
    np.save(tmp_path / "expected.npy", folded(values))
    np.save(tmp_path / "values.npy", values)
    folded.save(tmp_path / "folded.keras")
    # Without this package.
    code = (
        "import keras, sys, numpy as np\n"
        "model = keras.models.load_model('folded.keras')\n"
        "outputs = np.asarray(model(np.load('values.npy')))\n"
        "assert np.array_equal(outputs, np.load('expected.npy'))\n"
        "assert 'bn_keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("policy", ["float32", "float64"])
def test_both_kinds_of_multiply_add_are_bitwise_equal(policy):
    draw = np.random.default_rng(0)
    scale, shift = draw.normal(0, 100, (2, 4)).astype(policy)
    values = draw.normal(0, 100, (50, 3, 4)).astype(policy)
    ours = ScaleShift((2,), dtype=policy)
    ours.build(values.shape)
    ours.scale.assign(scale)
    ours.shift.assign(shift)
    stock = layers.Rescaling(scale, shift, dtype=policy)
    np.testing.assert_array_equal(ours(values), stock(values))


def test_a_multiply_add_in_half_precision_computes_in_float32():
    inputs = keras.Input((3,))
    x = layers.ReLU(dtype="mixed_float16")(inputs)
    normalization = BatchNormalization(name="left", dtype="mixed_float16", epsilon=0.0)
    model = keras.Model(inputs, layers.ReLU(dtype="mixed_float16")(normalization(x)))
    normalization.moving_variance.assign([1e-11, 1, 1])  # a scale of 3e5
    folded = fold_batch_normalization(model).model
    assert type(folded.get_layer("left")) is ScaleShift
    values = np.full((1, 3), 1e-4, "float32")
    np.testing.assert_allclose(folded(values), model(values), rtol=1e-3)


def test_a_model_without_normalization_is_copied():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    result = fold_and_compare(model, 1e-6, folded=0, left=0)
    assert result.report.entries == ()


def test_folding_twice_changes_nothing_more():
    model = roughen(tower())
    once = fold_and_compare(model, 1e-5, folded=2)
    twice = fold_and_compare(once.model, 0.0, folded=0, left=0)
    assert len(all_names(twice.model)) == len(all_names(once.model))


def all_names(model):
    return [layer.name for layer in all_layers(model)]


def test_a_folded_model_can_still_be_trained():
    result = fold_batch_normalization(roughen(tower()))
    result.model.compile("sgd", "mse")
    assert result.model.fit(np.ones((4, 4)), np.ones((4, 4)), verbose=0)


def test_quantized_and_lora_layers_are_not_folded():
    for change, word in (
        (lambda layer: layer.quantize("int8"), "quantized"),
        (lambda layer: layer.enable_lora(2), "LoRA"),
    ):
        inputs = keras.Input((4,))
        dense = layers.Dense(3)
        model = keras.Model(inputs, BatchNormalization()(dense(inputs)))
        roughen(model)
        change(dense)
        result = fold_and_compare(model, 1e-5, folded=0, left=1)
        assert word in result.report.entries[0].reason
