"""int8 costs trained networks next to no accuracy; see tests/support/trained_networks.

CIFAR-10: at most 0.3 points; the images of ImageNet, one a class: at most 1 point. The
difference of two accuracies on the same images has the standard error
`sqrt(discordant) / images`, where an image is discordant if one model is right.
"""

import numpy as np
import pytest
import tensorflow as tf
from trained_networks import trained_network

from bn_keras import fold_batch_normalization
from bn_keras.quantization import quantize

pytestmark = pytest.mark.slow


def predict(model, network, chosen):
    # One graph for batches of any size.
    function = tf.function(
        lambda x: model(x, training=False),
        input_signature=[tf.TensorSpec((None, *network.pixels.shape[1:]))],
        autograph=False,
    )
    parts = [
        function(tf.constant(np.float32(network.inputs(chosen[i : i + 50]))))
        for i in range(0, len(chosen), 50)
    ]
    return np.concatenate(parts).argmax(axis=1)


@pytest.mark.parametrize(
    ("name", "examples", "loss", "agreement"),
    [
        ("ResNet-20", 256, 0.003, 0.985),
        ("ResNet-56", 256, 0.003, 0.985),
        ("BN-ConvNet", 256, 0.003, 0.97),
        ("EfficientNet-Lite0", 128, 0.01, 0.96),
        ("EfficientNet-Lite1", 128, 0.01, 0.96),
    ],
)
def test_int8_keeps_the_accuracy_of_trained_networks(
    name, examples, loss, agreement, record_property
):
    network = trained_network(name)
    folded = fold_batch_normalization(network.model, check=False).model
    # The networks' training images are not here: calibrate with some of the others.
    order = np.random.default_rng(0).permutation(len(network.pixels))
    calibration, rest = order[:examples], order[examples:]
    quantized = quantize(folded, np.float32(network.inputs(calibration)), accuracy=0.95)
    assert quantized.report.int8_share > 0.9
    labels = network.labels[rest]
    before, after = (predict(x, network, rest) for x in (folded, quantized))
    discordant = ((before == labels) != (after == labels)).sum()
    error = np.sqrt(discordant) / len(rest)
    difference = (before == labels).mean() - (after == labels).mean()
    record_property("float accuracy", float((before == labels).mean()))
    record_property("loss", f"{difference:.4f} +- {1.96 * error:.4f}")
    record_property("same answer", float((before == after).mean()))
    assert difference <= loss
    assert (before == after).mean() >= agreement
