"""What the tests of folding share."""

import keras
import pytest


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    """Set the dtype of every layer of the test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)
