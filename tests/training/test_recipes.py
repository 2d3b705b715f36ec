"""The recipes are those that the paper states."""

from dataclasses import asdict, replace
from fractions import Fraction

import keras
import pytest

from bn_keras import data
from bn_keras.images import preprocessing as preprocessing_module
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.models import LocalResponseNormalization
from bn_keras.training import build, preprocessing_for
from bn_keras.training.recipes import (
    BN_X5,
    BN_X30,
    ENSEMBLE,
    INCEPTION,
    RECIPES,
    Recipe,
)

# Section 4.2: rate / 0.0015, dropout, LRN, L2 / Inception's, speed of decay / its,
# within-shard shuffling, BN, nonlinearity.
STATED = {
    "inception": (1, 0.4, True, 1, 1, False, False, "relu"),
    "bn-baseline": (1, 0.4, True, 1, 1, False, True, "relu"),
    "bn-x5": (5, 0, False, Fraction(1, 5), 6, True, True, "relu"),
    "bn-x30": (30, 0, False, Fraction(1, 5), 6, True, True, "relu"),
    "bn-x5-sigmoid": (5, 0, False, Fraction(1, 5), 6, True, True, "sigmoid"),
    "inception-x5": (5, 0.4, True, 1, 1, False, False, "relu"),
    "inception-sigmoid": (1, 0.4, True, 1, 1, False, False, "sigmoid"),
}


@pytest.mark.fast
@pytest.mark.parametrize("name", STATED)
def test_a_variant_is_as_section_4_2_states(name):
    rate, dropout, lrn, l2, decay, within, normalized, activation = STATED[name]
    recipe = RECIPES[name]
    assert recipe.learning_rate == pytest.approx(rate * 0.0015)
    assert recipe.dropout == dropout
    assert recipe.local_response_normalization is lrn
    assert recipe.l2 == pytest.approx(float(l2) * INCEPTION.l2)
    assert recipe.decay_epochs == pytest.approx(INCEPTION.decay_epochs / decay)
    assert recipe.decay == INCEPTION.decay
    assert recipe.within_shards is within
    assert recipe.batch_normalization is normalized
    assert recipe.activation == activation
    assert (recipe.batch_size, recipe.clip_norm) == (32, None)
    is_weaker = recipe.distortion.photometric < INCEPTION.distortion.photometric
    assert is_weaker == within


@pytest.mark.fast
def test_the_ensemble_is_six_of_bn_x30_with_the_stated_changes():
    assert len({member.seed for member in ENSEMBLE}) == len(ENSEMBLE) == 6
    stated = {"initial_scale", "dropout", "per_activation"}
    for member in ENSEMBLE:
        differing = {
            name
            for name, value in asdict(member).items()
            if value != asdict(BN_X30)[name]
        }
        assert differing - {"name", "seed"} <= stated
        assert differing & stated
        assert member.dropout in (0, 0.05, 0.1)
        assert member.initial_scale >= 1


@pytest.fixture(scope="module")
def tiny():
    """Two images of 8 x 8 pixels and two classes."""
    digits = data.digits()
    split = data.Arrays(digits.train.images[:2], digits.train.labels[:2] * 0)
    return replace(digits, train=split, test=split, class_names=("a", "b"))


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_the_network_has_the_layers_of_its_recipe(tiny):
    inception = build(replace(INCEPTION, width=0.05, batch_size=2), tiny)
    assert len(layers_of(inception, LocalResponseNormalization)) == 2
    (dropout,) = layers_of(inception, keras.layers.Dropout)
    assert dropout.rate == 0.4
    kernels = [
        layer.kernel
        for layer in layers_of(inception, (keras.layers.Conv2D, keras.layers.Dense))
        if not isinstance(layer, keras.layers.SeparableConv2D)
    ]
    assert len(kernels) > 60
    assert {float(kernel.regularizer.l2) for kernel in kernels} == {2e-4}
    assert inception.optimizer.momentum == 0.9

    x5 = build(replace(BN_X5, width=0.05, batch_size=2), tiny)
    assert not layers_of(x5, (LocalResponseNormalization, keras.layers.Dropout))


def test_the_changes_of_the_ensemble_are_in_the_network(tiny):
    plain, scaled, per_activation = (
        build(replace(recipe, width=0.3, batch_size=2, seed=0), tiny)
        for recipe in (BN_X30, ENSEMBLE[0], ENSEMBLE[3])
    )
    name = "inception_3a_3x3_conv"
    ratio = (
        scaled.get_layer(name).kernel.numpy().std()
        / plain.get_layer(name).kernel.numpy().std()
    )
    # Two samples of about 3,000 values each.
    assert ratio == pytest.approx(1.5, rel=0.05)
    shape = per_activation.get_layer("inception_5b_1x1_bn").gamma.shape
    assert shape == per_activation.get_layer("inception_5b_1x1_bn").output.shape[1:]
    assert len(per_activation.get_layer("inception_5a_1x1_bn").gamma.shape) == 1


@pytest.mark.fast
def test_the_linear_scaling_rule_scales_the_rate_with_the_batch():
    scaled = BN_X5.with_batch_size(256)
    assert scaled.learning_rate == pytest.approx(0.0075 * 8)
    assert replace(scaled, batch_size=32, learning_rate=BN_X5.learning_rate) == BN_X5


@pytest.mark.fast
def test_images_of_one_size_are_used_whole_and_others_cropped_to_224_from_256(tiny):
    assert preprocessing_for(BN_X5, tiny) == Preprocessing(
        size=(8, 8), scale=1 / 127.5, offset=-1.0, crop_fraction=1.0, channels=1
    )

    class Photographs(data.Arrays):
        shape = (None, None, 3)

        def __init__(self):
            pass

    preprocessing = preprocessing_for(BN_X5, replace(tiny, train=Photographs()))
    assert (preprocessing.size, preprocessing.resized_size) == ((224, 224), (256, 256))


@pytest.mark.fast
def test_a_recipe_shows_the_call_that_makes_it():
    recipe = replace(BN_X5, population_batches=7)
    text = repr(recipe)
    assert text.startswith("Recipe(name='bn-x5', model='Inception', ")
    assert "seed" not in text  # a default value
    assert eval(text, {"Recipe": Recipe, **vars(preprocessing_module)}) == recipe
    table = recipe._repr_html_().replace(' style="text-align: left"', "")
    assert "<th>population_batches</th><td>7</td>" in table
    assert "<th>seed</th><td>0</td>" in table
