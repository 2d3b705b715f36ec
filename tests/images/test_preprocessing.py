"""Preprocessing: what it accepts and how it fits a model."""

import pytest

from bn_keras.images.preprocessing import Preprocessing


def test_the_model_gives_the_size_and_the_channels():
    fitted = Preprocessing(crop_fraction=0.875).resolve((None, 224, 192, 3))
    assert (fitted.size, fitted.channels) == ((224, 192), 3)
    assert fitted.resized_size == (256, 219)
    assert Preprocessing().resolve((None, None, 8, 1)).size is None
    assert Preprocessing(size=(8, 8)).resolve((None, None, 8, 1)).size == (8, 8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (0, 4)),
        ("size", (4,)),
        ("resize", "area"),
        ("crop_fraction", 0),
        ("crop_fraction", 1.5),
        ("channels", 4),
    ],
)
def test_what_it_does_not_accept_is_named(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` must be .*Received: {field}="):
        Preprocessing(**{field: value})


def test_one_factor_for_each_channel():
    assert Preprocessing(scale=[1, 2, 3], channels=3).scale == (1, 2, 3)
    with pytest.raises(ValueError, match=r"`offset` must be one number or 3"):
        Preprocessing(offset=(1.0, 2.0), channels=3)


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (Preprocessing(size=(8, 8)), (None, 8, 9, 3)),
        (Preprocessing(channels=1), (None, 8, 8, 3)),
    ],
)
def test_it_must_be_the_models(given, shape):
    with pytest.raises(ValueError, match="the size and channels of the model's input"):
        given.resolve(shape)


@pytest.mark.parametrize("shape", [(None, 4), (None, 8, 8, 2), (None, 3, 8, 8)])
def test_other_models_take_no_images(shape):
    with pytest.raises(ValueError, match="needs a model whose only input is"):
        Preprocessing().resolve(shape)
