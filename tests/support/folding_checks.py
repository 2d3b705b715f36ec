"""Random models, and the comparison of a folded model with its original."""

import keras
import numpy as np

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

NORMALIZATIONS = (BatchNormalization, keras.layers.BatchNormalization)
# The largest difference of a folded model, by the dtype of its layers.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def chain(shape, *steps, dtype="float32"):
    """Return a Functional model that applies the steps; None is batch normalization."""
    x = inputs = keras.Input(shape, dtype=dtype)
    for step in steps:
        x = (BatchNormalization() if step is None else step)(x)
    return roughen(keras.Model(inputs, x))


def all_layers(model):
    """Yield every layer of a model, including the layers inside other layers."""
    for layer in model.layers:
        yield layer
        yield from layer._flatten_layers(include_self=False)


def roughen(model, seed=0, wide=True):
    """Give every weight a random value, and every normalization uneven statistics.

    Args:
        model: The model, which is changed in place and returned.
        seed: Seed of the random numbers.
        wide: Whether variances range from 1e-4 to 1e4 and gammas down to 1e-6, some
            of them negative. If False they stay near 1, as deep networks need.
    """
    draw = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" in variable.path:
            continue
        spread = 0.3 if len(variable.shape) < 2 else 1 / np.sqrt(fan_in(variable.shape))
        variable.assign(draw.normal(0, spread, variable.shape))
    for layer in all_layers(model):
        if isinstance(layer, NORMALIZATIONS):
            shape = layer.moving_mean.shape
            power = (
                draw.uniform(-4, 4, shape) if wide else draw.uniform(-0.5, 0.5, shape)
            )
            layer.moving_variance.assign(10.0**power)
            layer.moving_mean.assign(draw.normal(0, 0.5, shape))
            if layer.gamma is not None:
                gamma = draw.uniform(0.5, 1.5, shape)
                if wide:
                    gamma *= draw.choice([1, 1, 1e-6, -1, -1e-6], shape)
                layer.gamma.assign(gamma)
    return model


def fan_in(shape):
    return max(1, int(np.prod(shape[:-1])))


def inputs_of(model, batch=3, seed=1):
    """Return random inputs in the model's structure; an unknown size becomes 7."""
    draw = np.random.default_rng(seed)

    def values(x):
        shape = (batch, *(size or 7 for size in x.shape[1:]))
        if "int" in x.dtype:
            return draw.integers(0, 4, shape).astype(x.dtype)
        return draw.normal(0, 1, shape).astype(x.dtype)

    if isinstance(model, keras.Sequential):
        model = model._functional
    return keras.tree.map_structure(values, model.input)


def relative_difference(expected, actual):
    """Return the largest difference of any output, relative to its largest value."""
    worst = 0.0
    for one, other in zip(
        keras.tree.flatten(expected), keras.tree.flatten(actual), strict=True
    ):
        one, other = (
            keras.ops.convert_to_numpy(x).astype("float64") for x in (one, other)
        )
        assert one.shape == other.shape
        worst = max(worst, np.abs(one - other).max() / max(np.abs(one).max(), 1e-30))
    return worst


def fold_and_compare(model, tolerance, folded=None, left=None, inputs=None):
    """Fold a model, check everything that holds for every result, and return it."""
    inputs = inputs_of(model) if inputs is None else inputs
    expected = model(inputs)
    before = [np.array(x) for x in model.variables]
    result = fold_batch_normalization(model)
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    for entry in result.report.entries:
        assert bool(entry.into) == (entry.outcome == "folded"), entry
        assert bool(entry.reason) == (entry.outcome != "folded"), entry
    kept = [x for x in result.report.entries if x.outcome == "kept"]
    if not kept:
        assert not [
            x for x in all_layers(result.model) if isinstance(x, NORMALIZATIONS)
        ]
    own = {id(x) for x in result.model.variables}
    assert not own & {id(x) for x in model.variables}
    if isinstance(model, keras.Sequential):
        model = model._functional
    assert result.model.output_names == model.output_names
    keras.tree.assert_same_structure(result.model.input, model.input)
    keras.tree.assert_same_structure(result.model.output, model.output)
    for one, other in zip(
        [*model.inputs, *model.outputs],
        [*result.model.inputs, *result.model.outputs],
        strict=True,
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert [x.name for x in model.inputs] == [x.name for x in result.model.inputs]
    actual = result.model(inputs)
    keras.tree.assert_same_structure(expected, actual)
    assert relative_difference(expected, actual) <= tolerance, str(result.report)
    if folded is not None:
        assert result.report.folded == folded, str(result.report)
    if left is not None:
        assert result.report.left == left, str(result.report)
    return result
