"""A recipe trained, evaluated, saved."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization, data
from bn_keras.evaluation import evaluate
from bn_keras.recipes import BN_MLP, RECIPES
from bn_keras.training import build, train


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_builds_with_or_without_batch_normalization(recipe, digits):
    model = build(recipe, digits)
    found = [layer for layer in model.layers if isinstance(layer, BatchNormalization)]
    assert bool(found) == recipe.batch_normalization
    assert model.output_shape == (None, 10)


def test_training_leaves_a_model_that_answers_the_same(tmp_path, digits):
    recipe = replace(BN_MLP, epochs=2)
    model, history = train(recipe, digits, tmp_path, verbose=0)
    assert history["val_accuracy"][-1] > 0.5
    loaded = keras.models.load_model(tmp_path / "bn-mlp.keras")
    np.testing.assert_array_equal(
        loaded.predict(digits.test.images, verbose=0),
        model.predict(digits.test.images, verbose=0),
    )
    lines = (tmp_path / "bn-mlp.csv").read_text().splitlines()
    assert len(lines) == 1 + 2
    assert {path.name for path in tmp_path.iterdir()} == {"bn-mlp.keras", "bn-mlp.csv"}


def test_training_ends_with_the_population_statistics(digits):
    recipe = replace(BN_MLP, epochs=1)
    model, _ = train(recipe, digits, verbose=0)
    # The first hidden layer's inputs do not depend on other statistics.
    inputs = digits.train.images.reshape(-1, 64) @ np.asarray(
        model.get_layer("hidden_1_dense").kernel
    )
    found = model.get_layer("hidden_1_bn")
    np.testing.assert_allclose(found.moving_mean, inputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.moving_variance, inputs.var(0, ddof=1), rtol=1e-4)


def test_one_seed_is_one_result(digits):
    recipe = replace(BN_MLP, epochs=1)
    weights = [train(recipe, digits, verbose=0)[0].get_weights() for _ in range(2)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def probabilities_of(table):
    """A model that answers row i of `table` to the image that holds i."""
    table = np.array(table, "float32")
    model = keras.Sequential(
        [
            keras.Input((1, 1, 1)),
            keras.layers.Flatten(),
            keras.layers.Embedding(*table.shape),
            keras.layers.Flatten(),
        ]
    )
    model.set_weights([table])
    return model


def test_top_one_and_top_five_count_what_they_say():
    table = [[6, 5, 4, 3, 2, 1, 0]] * 4
    split = data.Split(
        np.arange(4, dtype="float32").reshape(4, 1, 1, 1), np.array([0, 4, 5, 1])
    )
    found = evaluate(probabilities_of(table), split)
    assert found == {"images": 4, "top1": 0.25, "top5": 0.75}


@pytest.mark.parametrize("answer", [0.0, np.nan])
def test_a_model_that_cannot_tell_classes_apart_is_never_right(answer):
    split = data.Split(np.zeros((4, 1, 1, 1), "float32"), np.arange(4))
    found = evaluate(probabilities_of([[answer] * 7]), split)
    assert (found["top1"], found["top5"]) == (0, 0)


def test_a_model_for_other_images_is_an_error(digits):
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"Received: images of shape \(8, 8, 1\)"):
        evaluate(model, digits.test)


def test_a_model_of_fewer_classes_is_an_error(digits):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match=r"knows 3 classes\. Received: label 9"):
        evaluate(model, digits.test)
