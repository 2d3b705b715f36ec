"""Runs that start from trained weights."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tf_slim_network
from image_files import write_image_folder

from bn_keras import data
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.training import build, train
from bn_keras.training.recipes import BN_CONVNET, BN_MLP, FINE_TUNE


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(replace(BN_MLP, epochs=1), digits, folder, verbose=0)
    return folder / "bn-mlp.keras"


def weights_by_name(model):
    return {layer.name: layer.get_weights() for layer in model.layers}


@pytest.mark.parametrize("classes", [10, 5])
def test_a_model_of_the_recipe_gives_its_weights_except_for_other_classes(
    digits, trained, classes
):
    other = replace(digits, class_names=digits.class_names[:classes])
    recipe = replace(BN_MLP, seed=1, initial_weights=str(trained))
    model = build(recipe, other)
    source = weights_by_name(keras.models.load_model(trained))
    for name, weights in weights_by_name(model).items():
        if name == "predictions" and classes != 10:
            assert weights[0].shape == (100, classes)
            continue
        for weight, expected in zip(weights, source[name], strict=True):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.fast
def test_weights_of_another_network_are_refused(digits, trained):
    recipe = replace(BN_CONVNET, initial_weights=str(trained))
    with pytest.raises(ValueError, match=r"stage_1_conv has weights of shapes \[\]"):
        build(recipe, digits)
    with pytest.raises(ValueError, match=r"a file that exists\. Received: none\.keras"):
        build(replace(BN_MLP, initial_weights="none.keras"), digits)
    with pytest.raises(ValueError, match=r"whose statistics can be frozen"):
        build(replace(BN_MLP, freeze_statistics=True), digits)


def test_frozen_statistics_stay_while_everything_else_trains(digits, trained, tmp_path):
    recipe = replace(
        BN_MLP, epochs=1, initial_weights=str(trained), freeze_statistics=True
    )
    source = weights_by_name(keras.models.load_model(trained))
    model, _ = train(recipe, digits, tmp_path, verbose=0)
    for name in ("hidden_1_bn", "hidden_3_bn"):
        gamma, beta, mean, variance = weights_by_name(model)[name]
        np.testing.assert_array_equal(mean, source[name][2])
        np.testing.assert_array_equal(variance, source[name][3])
        assert not np.array_equal(gamma, source[name][0])
        assert not np.array_equal(beta, source[name][1])


@pytest.mark.slow
def test_photographs_are_learnt_from_a_checkpoint_of_tf_slim(tmp_path):
    tf_slim_network.write_checkpoint(
        tmp_path / "inception_v2.ckpt", tf_slim_network.random_values()
    )
    write_image_folder(tmp_path / "photos", ("cat", "dog"), 20, (40, 50), "JPEG")
    recipe = replace(
        FINE_TUNE,
        epochs=1,
        batch_size=16,
        initial_weights=str(tmp_path / "inception_v2.ckpt"),
        preprocessing=Preprocessing((32, 32), 1 / 127.5, -1.0),
    )
    photos = data.image_folder(tmp_path / "photos")
    initial = weights_by_name(build(recipe, photos))
    (tmp_path / "run").mkdir()
    model, history = train(recipe, photos, tmp_path / "run", verbose=0)
    assert np.isfinite(history["loss"][0])
    name = "inception_4a_3x3_bn"
    gamma, beta, mean, variance = weights_by_name(model)[name]
    np.testing.assert_array_equal(mean, initial[name][2])
    np.testing.assert_array_equal(variance, initial[name][3])
    assert not np.array_equal(beta, initial[name][1])
    assert not np.array_equal(gamma, initial[name][0])
    assert model.output_shape == (None, 2)
