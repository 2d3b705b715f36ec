"""A warning names the normalizations whose shift cancels most of the digits."""

import keras
import numpy as np
import pytest
from keras import layers

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

pytestmark = pytest.mark.fast


def network(mean, variance=1.0, bias=0.0, dtype="float32", last=layers.ReLU):
    inputs = keras.Input((3,), dtype=dtype if dtype == "float64" else "float32")
    dense = layers.Dense(3, name="dense", dtype=dtype)
    normalization = BatchNormalization(name="bn", epsilon=0.0, dtype=dtype)
    x = last()(normalization(dense(inputs)))
    model = keras.Model(inputs, x)
    dense.kernel.assign(np.eye(3))
    dense.bias.assign([bias, 0, 0])
    normalization.moving_mean.assign([mean, 0, 0])
    normalization.moving_variance.assign([variance, 1, 1])
    return model


# Half of the digits are lost from 1 / sqrt(epsilon) deviations on.
LIMITS = {
    "float32": 2**11.5,
    "mixed_float16": 2**5,
    "mixed_bfloat16": 2**3.5,
    "float64": 2**26,
}


@pytest.mark.parametrize("dtype", LIMITS)
def test_the_limit_follows_from_the_epsilon_of_the_dtype(dtype):
    limit = LIMITS[dtype]
    # A warning would be an error.
    fold_batch_normalization(network(0.9 * limit, dtype=dtype), check=False)
    with pytest.warns(UserWarning, match=r"'bn' is .* standard deviations from zero"):
        fold_batch_normalization(network(1.1 * limit, dtype=dtype), check=False)


def test_the_warning_names_the_layer_and_the_figures():
    message = (
        r"The mean of 'bn' is 50,000 standard deviations from zero\. In float32, scale "
        r"\* x \+ shift is rounded by about 0\.006 standard deviations"
    )
    with pytest.warns(UserWarning, match=message):
        result = fold_batch_normalization(network(5e3, variance=0.01))
    (warning,) = result.report.warnings
    assert str(result.report).endswith(f"warning: {warning}")
    assert f"<p>warning: {warning.replace(chr(39), '&#x27;')}</p>" in (
        result.report._repr_html_()
    )


def test_the_figure_is_that_of_the_outputs():
    model = network(1e6)
    inputs = np.full((1, 3), 1e6 + 1, "float32")
    with pytest.warns(UserWarning, match=r"rounded by about 0\.1 standard"):
        folded = fold_batch_normalization(model).model
    exact = (inputs.astype("float64") - [1e6, 0, 0])[0, 0]
    assert 0 < abs(float(folded(inputs)[0, 0]) - exact) < 1 or exact == 1.0


def test_a_mean_that_is_the_bias_of_the_layer_before_loses_nothing():
    result = fold_batch_normalization(network(1e6, bias=1e6 + 1))
    inputs = np.ones((1, 3), "float32")
    # 1 + (1e6 + 1) - 1e6: the original computes it in float32, and both are exact here.
    assert float(result.model(inputs)[0, 0]) == pytest.approx(2.0)


def test_a_normalization_that_is_left_or_folds_forward_is_named_too():
    inputs = keras.Input((3,))
    normalization = BatchNormalization(name="far")
    x = layers.Dense(2)(normalization(layers.ReLU()(inputs)))
    model = keras.Model(inputs, x)
    normalization.moving_mean.assign([1e5, 0, 0])
    with pytest.warns(UserWarning, match="'far'"):
        assert fold_batch_normalization(model).report.folded == 1
    x = layers.ReLU()(normalization(layers.ReLU()(inputs)))
    with pytest.warns(UserWarning, match="'far'"):
        assert fold_batch_normalization(keras.Model(inputs, x)).report.left == 1


def test_a_normalization_inside_a_wrapper_is_named_by_its_path():
    start = keras.Input((3,))
    normalization = BatchNormalization(name="bn")
    inner = keras.Model(start, normalization(layers.Dense(3)(start)), name="inner")
    inputs = keras.Input((2, 3))
    model = keras.Model(inputs, layers.TimeDistributed(inner, name="each")(inputs))
    normalization.moving_mean.assign([1e5, 0, 0])
    with pytest.warns(UserWarning, match="'each/inner/bn'"):
        fold_batch_normalization(model)
