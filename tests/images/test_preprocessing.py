"""The values that `Preprocessing` accepts, and how it adapts to a model."""

import pytest

from bn_keras.images.preprocessing import Preprocessing

pytestmark = pytest.mark.fast


def test_size_and_channels_are_taken_from_the_model():
    resolved = Preprocessing(crop_fraction=0.875).resolve((None, 224, 192, 3))
    assert (resolved.size, resolved.channels) == ((224, 192), 3)
    assert resolved.resized_size == (256, 219)
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
        ("scale", "one"),
        ("offset", float("nan")),
    ],
)
def test_a_wrong_value_is_named(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` must be .*Received: {field}="):
        Preprocessing(**{field: value})


def test_scale_and_offset_may_have_a_number_for_each_channel():
    assert Preprocessing(scale=[1, 2, 3], channels=3).scale == (1, 2, 3)
    with pytest.raises(ValueError, match=r"`offset` must be a number, or 3 numbers"):
        Preprocessing(offset=(1.0, 2.0), channels=3)


@pytest.mark.parametrize(
    ("preprocessing", "shape"),
    [
        (Preprocessing(size=(8, 8)), (None, 8, 9, 3)),
        (Preprocessing(channels=1), (None, 8, 8, 3)),
    ],
)
def test_another_size_than_the_models_is_an_error(preprocessing, shape):
    with pytest.raises(ValueError, match="the size and channels of the model's input"):
        preprocessing.resolve(shape)


@pytest.mark.parametrize("shape", [(None, 4), (None, 8, 8, 2), (None, 3, 8, 8)])
def test_a_model_that_does_not_take_images_is_an_error(shape):
    with pytest.raises(ValueError, match="must have a single input of shape"):
        Preprocessing().resolve(shape)
