"""What was reported against other tools that fold batch normalization is right here."""

import keras
import numpy as np
import pytest
from folding_checks import chain, fold_and_compare, roughen
from keras import layers, ops

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

IMAGE = (8, 8, 3)


def test_pytorch_197539_a_reused_convolution_is_normalized_on_one_path_only():
    # torch.fx folds into the shared module, and the other path gets the new weights.
    one, other = keras.Input(IMAGE), keras.Input(IMAGE)
    conv = layers.Conv2D(8, 3, padding="same")
    model = keras.Model([one, other], [BatchNormalization()(conv(one)), conv(other)])
    result = fold_and_compare(roughen(model), 1e-5, folded=1, left=0)
    assert "un-shared" in result.report.entries[0].rule


def test_pytorch_124808_a_model_called_twice_is_folded_once_a_call():
    # Inductor fused the same modules again for every call that it had traced.
    inputs = keras.Input(IMAGE)
    start = keras.Input(IMAGE)
    block = keras.Model(
        start, BatchNormalization()(layers.Conv2D(3, 3, padding="same")(start))
    )
    model = roughen(keras.Model(inputs, block(ops.relu(block(inputs)))))
    fold_and_compare(model, 1e-5, folded=2, left=0)


def test_pytorch_108863_folding_does_not_remember_weights():
    # The compiled model kept the weights of its first evaluation.
    model = chain(IMAGE, layers.Conv2D(4, 3), BatchNormalization(), layers.ReLU())
    fold_and_compare(model, 1e-5, folded=1)
    model.layers[1].kernel.assign(model.layers[1].kernel * -3)
    model.layers[2].moving_mean.assign(model.layers[2].moving_mean + 1)
    fold_and_compare(model, 1e-5, folded=1)


@pytest.mark.parametrize("filters", [2, 3, 5])
def test_pytorch_180995_the_outputs_of_a_transposed_kernel_are_not_its_first_axis(
    filters,
):
    # The scale was multiplied into the wrong axis; also ultralytics#25364 (silently
    # wrong), onnx/optimizer#106 (an assertion) and onnxsim#228.
    model = chain(IMAGE, layers.Conv2DTranspose(filters, 3, 2), BatchNormalization())
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_pytorch_34932_a_normalization_without_weights_is_folded():
    # The fold failed without gamma and beta, and without the bias of the convolution.
    normalization = BatchNormalization(scale=False, center=False)
    model = chain(IMAGE, layers.Conv2D(4, 3, use_bias=False), normalization)
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_pytorch_ao_4116_a_normalization_along_another_axis_is_not_folded():
    # Linear and BatchNorm1d have different axes for (N, C, L); sizes that happened to
    # agree gave a wrong model without an error.
    model = chain((4, 3), layers.Dense(4), BatchNormalization(axis=1))
    fold_and_compare(model, 1e-5, folded=0, left=1)


def test_executorch_20601_a_convolution_with_another_reader_keeps_its_weights():
    # The count of the wrong node's readers was checked: an error of 76 in the output.
    inputs = keras.Input(IMAGE)
    x = layers.Conv2D(4, 3)(inputs)
    outputs = [layers.ReLU()(BatchNormalization()(x)), layers.ReLU()(x)]
    model = roughen(keras.Model(inputs, outputs))
    fold_and_compare(model, 1e-5, folded=0, left=1)


def test_tensorflow_onnx_2186_convolutions_and_normalizations_in_a_row_all_fold():
    # The second pair stayed, because its convolution reads a folded normalization.
    steps = [
        step
        for _ in range(3)
        for step in (layers.Conv2D(4, 3, padding="same"), BatchNormalization())
    ]
    fold_and_compare(chain(IMAGE, *steps), 1e-5, folded=3, left=0)


def test_tensorflow_onnx_1079_a_normalization_does_not_become_a_product_and_a_sum():
    # Some became separate operations, depending on the network.
    steps = (
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.DepthwiseConv2D(3, 2, use_bias=False),
        BatchNormalization(),
        layers.ReLU(6.0),
        layers.Conv2D(5, 1, use_bias=False),
        BatchNormalization(),
        layers.Dropout(0.2),
        layers.Activation("linear"),
        BatchNormalization(),
    )
    result = fold_and_compare(chain(IMAGE, *steps), 1e-5, folded=3, left=0)
    kinds = [type(x).__name__ for x in result.model.layers]
    assert kinds.count("Activation") == kinds.count("Dropout") == 1
    assert len(kinds) == 8  # the output keeps its name with an identity


def test_tensorflow_onnx_1106_half_precision_is_folded_in_a_wider_type():
    # The folded float16 weights had the wrong type.
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input(IMAGE)
        x = BatchNormalization()(layers.Conv2D(4, 3)(inputs))
        model = roughen(keras.Model(inputs, x), wide=False)
        result = fold_and_compare(model, 3 * 2.0**-10, folded=1, left=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert result.model.layers[1].kernel.dtype == "float32"
    assert result.model.output.dtype == "float16"


def test_tensorflow_onnx_2379_a_normalization_in_training_mode_is_kept():
    # The statistics of the batch were replaced by those of the population.
    inputs = keras.Input(IMAGE)
    x = BatchNormalization()(layers.Conv2D(4, 3)(inputs), training=True)
    model = roughen(keras.Model(inputs, x), wide=False)
    fold_and_compare(model, 1e-5, folded=0, left=1)


def test_tensorflow_50172_a_dilated_convolution_absorbs_the_normalization():
    # TensorFlow Lite folds it only without dilation.
    conv = layers.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False)
    model = chain(IMAGE, conv, BatchNormalization(), layers.ReLU())
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_graph_def_editor_15_a_depthwise_convolution_absorbs_the_normalization():
    # TensorFlow's Graph Transform Tool does not fold it, and so no MobileNet.
    conv = layers.DepthwiseConv2D(3, depth_multiplier=2)
    fold_and_compare(chain(IMAGE, conv, BatchNormalization()), 1e-5, 1, 0)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.Conv2D(4, 3),
        lambda: layers.Conv2DTranspose(4, 3),
        lambda: layers.Dense(4),
    ],
)
def test_ncnn_1339_the_bias_is_scaled_too(layer):
    # The bias was added to the shift without the scale.
    model = chain(IMAGE, layer(), BatchNormalization())
    model.layers[1].bias.assign(model.layers[1].bias + 5)
    fold_and_compare(model, 1e-5, folded=1, left=0)


@pytest.mark.parametrize("variance", [0.0, 1e-12])
def test_ncnn_303_epsilon_is_added_to_the_variance_under_the_root(variance):
    # A division by zero without epsilon; beside the root it is another function.
    model = chain((4,), layers.Dense(3), BatchNormalization(epsilon=1e-2))
    model.layers[2].moving_variance.assign([variance, variance, 1.0])
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_tvm_3216_the_folded_model_agrees_with_the_formula():
    # 3 % of the values differed from NumPy's.
    draw = np.random.default_rng(0)
    x, gamma, beta, mean = draw.normal(size=(4, 10, 20)).astype("float32")
    variance = np.abs(draw.normal(size=(20,))).astype("float32")
    normalization = BatchNormalization(epsilon=1e-5)
    model = chain((20,), normalization)
    normalization.set_weights(
        [gamma[0], beta[0], mean[0], variance, *normalization.get_weights()[4:]]
    )
    folded = fold_batch_normalization(model).model
    exact = (x.astype("float64") - mean[0]) / np.sqrt(variance + 1e-5)
    exact = exact * gamma[0] + beta[0]
    np.testing.assert_allclose(folded(x), exact, rtol=1e-5, atol=1e-5)


def test_tvm_17151_squeeze_and_excitation_does_not_stop_the_fold():
    # The scale of a convolution was folded into the product of the two paths.
    inputs = keras.Input(IMAGE)
    x = layers.ReLU()(BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(
        layers.Conv2D(2, 1, activation="relu")(gate)
    )
    x = BatchNormalization()(layers.Conv2D(5, 1)(layers.Multiply()([x, gate])))
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=2, left=0)


def test_lc0_779_negative_and_zero_gammas_are_folded():
    # The inverse of gamma was used.
    model = chain(IMAGE, layers.Conv2D(3, 3, padding="same"), BatchNormalization())
    model.layers[2].gamma.assign([-2.0, 0.0, 1.0])
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_hls4ml_436_a_dense_layer_before_two_normalizations_feeds_both():
    # Both normalizations were removed, and the second output had no source.
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation="linear")(inputs)
    outputs = [BatchNormalization()(x), BatchNormalization()(x)]
    fold_and_compare(roughen(keras.Model(inputs, outputs)), 1e-5, folded=2, left=0)


@pytest.mark.parametrize(
    "layer", [lambda: layers.Conv1D(4, 1), lambda: layers.Dense(4)]
)
def test_hls4ml_368_pointwise_layers_have_the_folded_weights(layer):
    # The weights that were written were those from before the fold.
    model = chain((6, 3), layer(), BatchNormalization())
    fold_and_compare(model, 1e-5, folded=1, left=0)


@pytest.mark.parametrize("axis", [1, -1])
def test_keras_onnx_92_axes_1_and_minus_1_are_the_same_for_vectors(axis):
    # One of them failed.
    model = chain((10,), BatchNormalization(axis=axis), layers.Dense(5))
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_tensorflowjs_2463_an_addition_before_the_normalization_is_folded_too():
    # The converter left convolution, addition and normalization as three operations.
    offsets = np.linspace(-1, 1, 4).astype("float32")
    conv = layers.Conv2D(4, 3, use_bias=False)
    model = chain(IMAGE, conv, lambda x: x + offsets, BatchNormalization())
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    assert result.report.entries[0].rule == "Conv2D, Add, then BN"


def test_aimet_3587_tensors_among_the_keyword_arguments_are_followed():
    # The fold failed where a layer was called with its input by name.
    inputs = keras.Input((6, 4))
    x = BatchNormalization()(layers.Dense(4)(inputs))
    x = layers.MultiHeadAttention(2, 3)(query=x, value=inputs, key=inputs)
    fold_and_compare(roughen(keras.Model(inputs, x)), 1e-5, folded=1, left=0)


def test_mmcv_747_the_difference_is_that_of_rounding():
    # A difference of 0.185, which nobody could explain afterwards.
    model = chain(
        (32, 32, 3), layers.Conv2D(32, 3, padding="same"), BatchNormalization()
    )
    fold_and_compare(model, 1e-6, folded=1, left=0)


def test_onnx_3460_the_output_keeps_its_name():
    # The output got the name of the convolution, and the next tool did not find it.
    normalization = BatchNormalization(name="scores")
    result = fold_and_compare(
        chain((4,), layers.Dense(3), normalization), 1e-5, folded=1, left=0
    )
    assert result.model.output_names == ["scores"]
