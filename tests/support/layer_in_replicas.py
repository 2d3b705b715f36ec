"""Run as a program, runs the layer in two replicas and writes what it answered.

Usage: `python layer_in_replicas.py mirrored|mesh FOLDER`, the former on TensorFlow, the
latter on JAX. Compares nothing: `test_layer_distributed` does, which also imports the
inputs from here.
"""

import sys
from pathlib import Path

import numpy as np

WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
MOMENTUM = 0.6


def case(first, second, mean=2.0, masked=(), **arguments):
    """Inputs and cotangents of two replicas, masks, and the layer's arguments."""
    draw = np.random.default_rng(0)
    shapes = (first, second)
    noise = [draw.normal(size=shape) for shape in shapes]
    # Replicas differ by two deviations: their means must be merged.
    x = [(mean + 2 * i + noise[i]).astype("float32") for i in (0, 1)]
    # With a part along the normalized inputs, or gamma's gradient would be near 0.
    cotangent = [
        (1 + 2 * i + own + draw.normal(size=own.shape)).astype("float32")
        for i, own in enumerate(noise)
    ]
    masks = None
    if masked:
        masks = [
            draw.random(shape[:-1]) < share
            for shape, share in zip(shapes, masked, strict=True)
        ]
    return x, cotangent, masks, arguments


CASES = {
    "equal": case((4, 3), (4, 3)),
    "unequal": case((6, 5, 3), (2, 5, 3)),
    "feature maps": case((3, 4, 4, 2), (5, 4, 4, 2)),
    "channels first": case((3, 2, 4, 4), (5, 2, 4, 4), axis=1),
    "per activation": case((3, 2, 2, 3), (4, 2, 2, 3), axis=(1, 2, 3)),
    "empty": case((5, 3), (0, 3)),
    "empty feature maps": case((5, 4, 4, 3), (0, 4, 4, 3)),
    "unknown": case((6, 5, 3), (2, 5, 3)),
    "unknown empty": case((5, 3), (0, 3)),
    "masked": case((4, 6, 3), (3, 6, 3), masked=(0.8, 0.3)),
    "one replica masked": case((4, 6, 3), (3, 6, 3), masked=(0.8, -1)),
    "far": case((64, 16, 2), (32, 16, 2), mean=1e4),
    "far masked": case((64, 16, 2), (32, 16, 2), mean=1e4, masked=(0.8, 0.3)),
    "one value each": case((1, 3), (1, 3)),
    "debiased": case((6, 3), (2, 3), averaging="debiased"),
    "biased": case((6, 3), (2, 3), unbiased=False),
}
UNSYNCHRONIZED = {
    "equal": CASES["equal"],
    "unequal": CASES["unequal"],
    "empty": CASES["empty"],
    "unknown empty": CASES["empty"],
    "cumulative": case((6, 3), (2, 3), averaging="cumulative"),
    "large": case((32, 32, 32, 8), (32, 32, 32, 8)),
}


def build(layer, shape):
    """Build it with uneven gamma and beta."""
    layer.build((None, *shape[1:]))
    for index, weight in enumerate((layer.gamma, layer.beta)):
        weight.assign(np.random.default_rng(index).uniform(0.5, 2, weight.shape))


def inputs_of_fit():
    """Seventeen examples at mean 1e4: the last global batch of 8 holds one."""
    values = 1e4 + np.random.default_rng(7).normal(size=(17, 3))
    return values.astype("float32"), np.zeros((17, 3), "float32")


def model_for_fit(**arguments):
    """The layer alone, not to learn."""
    import keras

    from bn_keras import BatchNormalization

    layer = BatchNormalization(momentum=MOMENTUM, **arguments)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def run_mirrored(folder):
    """Every case under a mirrored strategy of two logical CPU devices."""
    import tensorflow as tf

    from bn_keras import BatchNormalization

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {}

    def distributed(values):
        if values is None:
            return None
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group])
        )

    def run(name, synchronized, x, cotangent, masks, arguments):
        with strategy.scope():
            layer = BatchNormalization(
                momentum=MOMENTUM, synchronized=synchronized, **arguments
            )
            build(layer, x[0].shape)

        def replica(x, cotangent, mask):
            with tf.GradientTape() as tape:
                tape.watch(x)
                given = x
                if "unknown" in name:  # the size of the batch, as in `fit`
                    shape = (None, *x.shape[1:])
                    given = tf.raw_ops.PlaceholderWithDefault(input=x, shape=shape)
                outputs = layer(given, training=True, mask=mask)
            learned = [layer.gamma.value, layer.beta.value]
            return outputs, *tape.gradient(outputs, [x, *learned], cotangent)

        given = [distributed(values) for values in (x, cotangent, masks)]
        try:
            found = tf.function(lambda *given: strategy.run(replica, given))(*given)
        except RuntimeError as error:  # for the one test that it fails
            results[f"{name}/error"] = np.array(str(error))
            return
        for value, part in zip(("outputs", "x", "gamma", "beta"), found, strict=True):
            parts = strategy.experimental_local_results(part)
            for index, own in enumerate(parts):
                results[f"{name}/{value}/{index}"] = own.numpy()
        for weight in layer.weights[2:]:
            results[f"{name}/{weight.name}"] = np.asarray(weight)

    for name, (x, cotangent, masks, arguments) in CASES.items():
        run(f"synchronized {name}", True, x, cotangent, masks, arguments)
    for name, (x, cotangent, masks, arguments) in UNSYNCHRONIZED.items():
        run(f"unsynchronized {name}", False, x, cotangent, masks, arguments)
    x, y = inputs_of_fit()
    for synchronized in (True, False):
        with strategy.scope():
            model = model_for_fit(synchronized=synchronized)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        for weight in model.layers[0].weights:
            results[f"fit {synchronized}/{weight.name}"] = np.asarray(weight)
        if synchronized:
            model.save(folder / "mirrored.keras")
            results["predictions"] = model(x).numpy()
    np.savez(folder / "mirrored.npz", **results)


def run_mesh(folder):
    """A training step over two devices and over one; and the saved model's answers."""
    import keras

    import bn_keras  # noqa: F401  registers the layer

    x, y = inputs_of_fit()
    loaded = keras.models.load_model(folder / "mirrored.keras")
    results = {"predictions": np.asarray(loaded(x))}
    devices = keras.distribution.list_devices()
    for name in ("two", "one"):
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(
                devices=devices[: 2 if name == "two" else 1]
            )
        )
        model = model_for_fit()
        model.fit(x[:8], y[:8], batch_size=8, verbose=0)
        for weight in model.layers[0].weights:
            results[f"{name}/{weight.name}"] = np.asarray(weight.value)
        shards = len(model.layers[0].moving_mean.value.sharding.device_set)
        results[f"{name}/devices"] = np.array(shards)
    np.savez(folder / "mesh.npz", **results)


if __name__ == "__main__":
    {"mirrored": run_mirrored, "mesh": run_mesh}[sys.argv[1]](Path(sys.argv[2]))
