"""Layers that cost accuracy return to float, the most harmful first."""

import keras
import numpy as np
import pytest

from bn_keras.quantization import quantize
from bn_keras.quantization.accuracy import AGREEMENT, EXACTNESS, score

L = keras.layers
DRAW = np.random.default_rng(0)
IMAGES = DRAW.normal(size=(64, 8, 8, 4)).astype("float32")


def harmful_model(layers):
    """Return a classifier of which some layers need more than 8 bits.

    One input channel of theirs is 3,000 times as large as the others, and has a weight
    so small that all matter.
    """
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 4))
    for number in range(3):
        x = L.Conv2D(16, 3, padding="same", name=f"plain_{number}")(x)
        if number in layers:
            spread = np.ones(16, "float32")
            spread[0] = 3000
            kernel = np.diag(spread)[None, None]
            widen = L.Conv2D(16, 1, use_bias=False, name=f"widen_{number}")
            x = widen(x)
            widen.set_weights([kernel])
            harmful = L.Conv2D(16, 1, name=f"harmful_{number}")
            x = harmful(x)
            weights = DRAW.normal(size=(1, 1, 16, 16)) / spread[:, None]
            harmful.set_weights([weights, np.zeros(16)])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(10)(x))


def test_the_layers_that_hurt_return_to_float_and_the_bound_holds():
    model = harmful_model({1})
    free = quantize(model, IMAGES, accuracy=0).report
    assert free.score < 0.9
    assert free.warnings == ("no bound was set: `accuracy` is 0",)
    quantized = quantize(model, IMAGES, accuracy=0.9)
    report = quantized.report
    assert report.score >= report.bound == 0.9
    outcomes = {x.layer: x for x in report.entries}
    # Its input cannot be rounded; the others need not be.
    assert outcomes["harmful_1"].outcome == "float"
    assert "too much accuracy" in outcomes["harmful_1"].reason
    for name in ("plain_0", "plain_1", "plain_2"):
        assert outcomes[name].outcome == "int8", name
    assert 0 < report.int8_share < 1
    held_back = IMAGES[1::2]
    same = model(held_back).numpy().argmax(1) == quantized(held_back).numpy().argmax(1)
    assert same.mean() == report.score


def test_other_outputs_are_bounded_by_the_relative_error():
    x = inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, L.Conv2D(3, 3)(L.Conv2D(8, 3, activation="relu")(x)))
    report = quantize(model, IMAGES, accuracy=0.9).report
    assert report.measure == EXACTNESS
    assert report.score == pytest.approx(1 - report.relative_error)
    with pytest.raises(ValueError, match=r"1 - relative error of at least 0\.9999"):
        quantize(model, IMAGES, accuracy=0.9999)


def test_scores_are_shares_or_exactness_of_the_worst_output():
    rows = np.eye(4)
    others = rows[[0, 1, 2, 2]]
    assert score(AGREEMENT, [rows, rows], [rows, others]) == 0.75
    assert score(EXACTNESS, [rows], [rows * 0.9]) == pytest.approx(0.9)


@pytest.mark.parametrize("accuracy", ["0.9", None, True, 98, float("nan")])
def test_a_bound_must_be_a_share(accuracy):
    model = keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(3, 3)])
    with pytest.raises(ValueError, match=r"from 0 to 1\. Received: accuracy="):
        quantize(model, IMAGES, accuracy=accuracy)


def test_examples_may_be_batches_and_pairs_with_targets():
    model = keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(3, 3)])
    targets = np.zeros(32)
    halves = IMAGES[:32], IMAGES[32:]
    expected = quantize(model, IMAGES, accuracy=0.9).report
    for examples in (list(halves), ((half, targets) for half in halves)):
        report = quantize(model, examples, accuracy=0.9).report
        assert report.entries[0].scale == expected.entries[0].scale
    for examples in ([IMAGES[0], IMAGES[1, :4]], (IMAGES, targets), [], "x.npy"):
        with pytest.raises(ValueError, match=r"`calibration` must .*Received: "):
            quantize(model, examples)


def test_nothing_finite_is_reported_with_its_layer():
    inputs = keras.Input((4,))
    x = L.Dense(4, name="first")(inputs)
    x = L.Lambda(lambda x: keras.ops.log(-keras.ops.abs(x)), name="logarithm")(x)
    model = keras.Model(inputs, L.Dense(3)(x))
    rows = DRAW.normal(size=(32, 4)).astype("float32")
    with pytest.raises(ValueError, match="NaN or infinity from 'logarithm'"):
        quantize(model, rows)


def test_a_model_without_int8_layers_is_refused():
    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, L.Dense(3)(inputs))
    rows = DRAW.normal(size=(32, 4, 4)).astype("float32")
    with pytest.raises(ValueError, match="its input has 3 axes"):
        quantize(model, rows)
