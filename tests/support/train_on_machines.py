"""Train a small recipe in this process, one of several, and print its weights as JSON.

Usage: train_on_machines.py WORKDIR EPOCHS [DISTRIBUTION]
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path


def train_small(workdir, epochs, distribution_name=None):
    """Return the weights, the learning curve and the number of replicas as a dict."""
    from bn_keras import data
    from bn_keras.training import distribution, train
    from bn_keras.training.recipes import BN_CONVNET

    # Before anything is computed.
    devices = distribution.start(distribution_name)
    recipe = replace(
        BN_CONVNET,
        epochs=epochs,
        synchronized=True,
        batch_size=64,
        momentum=0.9,
        population_batches=3,
    )
    digits = data.digits()
    # Two steps an epoch: after five, rounding has changed which of two almost equal
    # values a pooling window takes, and weights by 1e-4.
    train_split = data.Arrays(digits.train.images[:128], digits.train.labels[:128])
    # An odd number of test examples: the machines cannot divide them evenly.
    test_split = data.Arrays(digits.test.images[:301], digits.test.labels[:301])
    model, history = train(
        recipe,
        replace(digits, train=train_split, test=test_split),
        workdir,
        verbose=0,
        distributed=devices,
        checkpoint_steps=2,
    )
    return {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "history": history,
        "replicas": devices.replicas,
    }


if __name__ == "__main__":
    if os.environ.get("LOGICAL_DEVICES"):
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu,
            [tf.config.LogicalDeviceConfiguration()]
            * int(os.environ["LOGICAL_DEVICES"]),
        )
    workdir, epochs, *distribution_name = sys.argv[1:]
    result = train_small(Path(workdir), int(epochs), *distribution_name)
    json.dump(result, sys.stdout)
