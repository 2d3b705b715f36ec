"""BN-Inception with the weights of PyTorch's network, which came from Caffe."""

import caffe_network
import numpy as np
import pytest

from bn_keras.models import BNInception, bn_inception_from_pytorch


@pytest.fixture(scope="module")
def state():
    return caffe_network.random_state()


@pytest.mark.parametrize("prefix", ["", "module.base_model."])
@pytest.mark.parametrize("side", [64, 96])
def test_the_logits_are_those_of_the_network_in_pytorch(state, prefix, side):
    images = np.random.default_rng(1).uniform(-120, 120, (2, side, side, 3))
    images = images.astype(np.float32)
    model = bn_inception_from_pytorch(
        {f"{prefix}{name}": value for name, value in state.items()},
        input_shape=(side, side, 3),
        classifier_activation=None,
    )
    # There the channels are blue, green, red.
    expected = caffe_network.logits(state, images[..., ::-1])
    actual = model.predict(images, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=2e-6 * np.abs(expected).max())


def test_weights_without_the_top_and_of_other_classes(state):
    features = bn_inception_from_pytorch(
        state, include_top=False, pooling="avg", input_shape=(64, 64, 3)
    )
    assert features.output_shape == (None, 1024)
    tsn = {k: v for k, v in state.items() if not k.startswith("last_linear")}
    tsn |= {"fc_action.weight": np.zeros((101, 1024)), "fc_action.bias": np.zeros(101)}
    model = bn_inception_from_pytorch(tsn, input_shape=(64, 64, 3))
    assert model.output_shape == (None, 101)


def test_weights_that_do_not_fit_are_named(state):
    broken = dict(state)
    del broken["inception_4a_3x3_bn.running_var"]
    broken["conv2_3x3.weight"] = np.zeros((192, 64, 1, 1), np.float32)
    with pytest.raises(ValueError, match="must be that of PyTorch's") as raised:
        bn_inception_from_pytorch(broken, input_shape=(64, 64, 3))
    assert "inception_4a_3x3_bn.running_var is missing" in str(raised.value)
    assert "conv2_3x3.weight has shape (192, 64, 1, 1) instead of" in str(raised.value)
    with pytest.raises(ValueError, match=r"multiples of 32.*Received.*\(60, 60, 3\)"):
        BNInception(variant="caffe", input_shape=(60, 60, 3))
