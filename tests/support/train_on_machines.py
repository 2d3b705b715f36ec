"""Train a small recipe in this process, one of several; print its weights as JSON.

Usage: train_on_machines.py WORKDIR EPOCHS [DISTRIBUTION]
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

if os.environ.get("LOGICAL_DEVICES"):
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu,
        [tf.config.LogicalDeviceConfiguration()] * int(os.environ["LOGICAL_DEVICES"]),
    )

from bn_keras import data
from bn_keras.training import distribution, train
from bn_keras.training.recipes import BN_CONVNET

place = distribution.start(sys.argv[3] if len(sys.argv) > 3 else None)
recipe = replace(
    BN_CONVNET,
    epochs=int(sys.argv[2]),
    synchronized=True,
    batch_size=64,
    momentum=0.9,
    population_batches=3,
)
digits = data.digits()
examples = data.Arrays(digits.train.images[:320], digits.train.labels[:320])
# An odd number of test examples: the machines cannot share them evenly.
tests = data.Arrays(digits.test.images[:301], digits.test.labels[:301])
model, history = train(
    recipe,
    replace(digits, train=examples, test=tests),
    Path(sys.argv[1]),
    verbose=0,
    distributed=place,
    checkpoint_steps=2,
)
json.dump(
    {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "history": history,
        "replicas": place.replicas,
    },
    sys.stdout,
)
