"""The layer in two replicas.

As a program: `python layer_in_replicas.py RUN FOLDER` writes the results to
`FOLDER/RUN.npz`. The runs `mirrored` and `mirrored_slow` use TensorFlow, `mesh` uses
JAX. The expected values are computed by `tests/layer/test_distributed.py`, which
imports the inputs from here.
"""

import sys
from pathlib import Path

import numpy as np

WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
MOMENTUM = 0.6


def case(first, second, mean=2.0, masked=(), **arguments):
    """Return inputs, cotangents and masks of two replicas, and the layer's arguments.

    Args:
        first: The shape of the inputs of the first replica.
        second: The shape of those of the second replica.
        mean: The mean of the inputs.
        masked: For each replica, the fraction of positions that are not masked.
        **arguments: Arguments of the layer.
    """
    draw = np.random.default_rng(0)
    shapes = (first, second)
    noise = [draw.normal(size=shape) for shape in shapes]
    # The replicas differ by two deviations, so that merging must consider their means.
    x = [(mean + 2 * i + noise[i]).astype("float32") for i in (0, 1)]
    # Correlated with the normalized inputs; otherwise the gradient by gamma is near 0.
    cotangent = [
        (1 + 2 * i + part + draw.normal(size=part.shape)).astype("float32")
        for i, part in enumerate(noise)
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
    "large": case((32, 32, 32, 6), (16, 32, 32, 6)),
    "large far masked": case((32, 32, 32, 6), (40, 32, 32, 6), 1e4, masked=(0.8, 0.3)),
    # The kernel is chosen by the size of the batch, but alike in both replicas.
    "one large": case((32, 32, 32, 6), (1, 32, 32, 6)),
    "one folded": case((64, 7, 7, 33), (63, 7, 7, 33)),
    "debiased": case((6, 3), (2, 3), averaging="debiased"),
    "biased": case((6, 3), (2, 3), unbiased=False),
}
UNSYNCHRONIZED_CASES = {
    "equal": CASES["equal"],
    "unequal": CASES["unequal"],
    "empty": CASES["empty"],
    "unknown empty": CASES["empty"],
    "cumulative": case((6, 3), (2, 3), averaging="cumulative"),
    "large": case((32, 32, 32, 8), (32, 32, 32, 8)),
}
# Each takes half a second to compile. All others are in the slow run.
REPRESENTATIVES = {
    "synchronized unequal",
    "synchronized per activation",
    "synchronized unknown empty",
    "synchronized one replica masked",
    "synchronized far",
    "synchronized large",
    "synchronized one large",
    "synchronized debiased",
    "unsynchronized unequal",
    "unsynchronized cumulative",
}


def build(layer, shape):
    """Build a layer with different values of gamma and beta."""
    layer.build((None, *shape[1:]))
    for index, weight in enumerate((layer.gamma, layer.beta)):
        weight.assign(np.random.default_rng(index).uniform(0.5, 2, weight.shape))


def inputs_of_fit():
    """Return 17 examples with mean 1e4: the last batch of 8 has one example."""
    values = 1e4 + np.random.default_rng(7).normal(size=(17, 3))
    return values.astype("float32"), np.zeros((17, 3), "float32")


def model_for_fit(**arguments):
    """Return a model of the layer alone that does not learn."""
    import keras

    from bn_keras import BatchNormalization

    layer = BatchNormalization(momentum=MOMENTUM, **arguments)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def run_mirrored(folder, slow):
    """Run cases under a mirrored strategy of two logical CPU devices.

    Args:
        folder: Where to save a model that was trained, unless the run is slow.
        slow: Whether to run all other cases instead of the representatives.
    """
    import tensorflow as tf

    from bn_keras import BatchNormalization

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {}

    def distribute(values):
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
                inputs = x
                if "unknown" in name:  # the size of the batch, as in `fit`
                    shape = (None, *x.shape[1:])
                    inputs = tf.raw_ops.PlaceholderWithDefault(input=x, shape=shape)
                outputs = layer(inputs, training=True, mask=mask)
            sources = [x, layer.gamma.value, layer.beta.value]
            return outputs, *tape.gradient(outputs, sources, cotangent)

        values = [distribute(parts) for parts in (x, cotangent, masks)]
        try:
            per_replica = tf.function(lambda *args: strategy.run(replica, args))(
                *values
            )
        except RuntimeError as error:  # reported by the test of this case
            results[f"{name}/error"] = np.array(str(error))
            return
        names = ("outputs", "x", "gamma", "beta")
        for value_name, value in zip(names, per_replica, strict=True):
            parts = strategy.experimental_local_results(value)
            for index, part in enumerate(parts):
                results[f"{name}/{value_name}/{index}"] = part.numpy()
        for weight in layer.weights[2:]:
            results[f"{name}/{weight.name}"] = np.asarray(weight)

    for prefix, cases in (
        ("synchronized", CASES),
        ("unsynchronized", UNSYNCHRONIZED_CASES),
    ):
        for case_name, values in cases.items():
            name = f"{prefix} {case_name}"
            if slow != (name in REPRESENTATIVES):
                run(name, prefix == "synchronized", *values)
    x, y = inputs_of_fit()
    for synchronized in () if slow else (True, False):
        with strategy.scope():
            model = model_for_fit(synchronized=synchronized)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        for weight in model.layers[0].weights:
            results[f"fit {synchronized}/{weight.name}"] = np.asarray(weight)
        if synchronized:
            model.save(folder / "mirrored.keras")
            results["predictions"] = model(x).numpy()
    return results


def run_mesh(folder):
    """Run a training step on two devices and on one, and load the saved model."""
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
    return results


if __name__ == "__main__":
    run_name, folder = sys.argv[1], Path(sys.argv[2])
    if run_name == "mesh":
        results = run_mesh(folder)
    else:
        results = run_mirrored(folder, slow=run_name == "mirrored_slow")
    np.savez(folder / f"{run_name}.npz", **results)
