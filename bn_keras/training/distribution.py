"""One training on several devices and machines, through TensorFlow's and Keras' own.

Knows strategies and processes; no model and no data set.
"""

import json
import os
from contextlib import nullcontext

# Test examples at a time.
TEST_BATCH = 256


class OneDevice:
    """The device that the backend chooses."""

    replicas = machines = 1
    machine = 0

    def scope(self):
        """The context in which the model is built and compiled."""
        return nullcontext()

    def inputs(self, part, batch_size):
        """What `fit` takes.

        Args:
            part: called with `(machine, machines)`; returns a `tf.data.Dataset` of
                that machine's share of each mini-batch.
            batch_size: examples of a mini-batch on all machines together.
        """
        return part((self.machine, self.machines))

    def tests(self, split, preprocessing):
        """What `fit` takes to validate on; every machine sees all examples.

        Args:
            split: a `bn_keras.data.Split`.
            preprocessing: a `bn_keras.images.preprocessing.Preprocessing`.
        """
        return split.batches(TEST_BATCH, preprocessing=preprocessing)

    def close(self):
        """Leave the backend as it was."""


class Mirrored(OneDevice):
    """All GPUs of this machine (or its logical devices): `MirroredStrategy`."""

    def __init__(self):
        import tensorflow as tf

        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        self.strategy = tf.distribute.MirroredStrategy(devices)
        self.replicas = self.strategy.num_replicas_in_sync

    def scope(self):  # noqa: D102 (as OneDevice has it)
        return self.strategy.scope()


class MultiWorker(Mirrored):
    """All GPUs of the machines in TF_CONFIG: `MultiWorkerMirroredStrategy`."""

    def __init__(self):
        import tensorflow as tf

        _check_cluster()

        class Strategy(tf.distribute.MultiWorkerMirroredStrategy):
            """A strategy whose `reduce` takes what Keras' `fit` hands it.

            `fit` reduces a tuple to learn its shapes, and numbers along their first
            axis, and TensorFlow refuses both (keras#20585).
            """

            def reduce(self, reduce_op, value, axis):
                if isinstance(value, tuple):
                    return tuple(
                        self.experimental_local_results(one)[0] for one in value
                    )
                if self.experimental_local_results(value)[0].shape.rank == 0:
                    axis = None
                return super().reduce(reduce_op, value, axis)

        self.strategy = Strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        resolver = self.strategy.cluster_resolver
        self.machine = resolver.task_id
        self.machines = resolver.cluster_spec().num_tasks("worker")

    def inputs(self, part, batch_size):  # noqa: D102
        # TensorFlow's own sharding would give the machines other examples in a step
        # than one machine would have.
        return self.strategy.distribute_datasets_from_function(
            lambda context: part(
                (context.input_pipeline_id, context.num_input_pipelines)
            ).rebatch(batch_size // self.replicas)
        )

    def tests(self, split, preprocessing):  # noqa: D102
        return self.strategy.distribute_datasets_from_function(
            lambda _: super(MultiWorker, self).tests(split, preprocessing)
        )


def _check_cluster():
    """Refuse a TF_CONFIG that is none, or has other roles than workers."""
    given = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(given)
        workers, task = config["cluster"]["worker"], config["task"]
        fits = task["type"] == "worker" and 0 <= int(task["index"]) < len(workers)
        fits = fits and set(config["cluster"]) == {"worker"}
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            "multi_worker expects the environment's TF_CONFIG to name a cluster of "
            "workers alone, and which of them this is, as README shows. Received: "
            f"{given or 'none'}; set it on each machine"
        )


class DataParallel(OneDevice):
    """All devices of JAX, of several processes too: `keras.distribution`."""

    def __init__(self):
        import keras

        if os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
            import jax

            # JAX has no other way between the CPUs of two processes.
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            keras.distribution.initialize()
        import jax

        self.machine, self.machines = jax.process_index(), jax.process_count()
        self.replicas = jax.device_count()
        self._before = keras.distribution.distribution()
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )

    def tests(self, split, preprocessing):  # noqa: D102
        # JAX divides a batch over its devices evenly or not at all. The last one loses
        # what is left over: fewer examples than there are devices here.
        devices = self.replicas // self.machines
        size = max(1, TEST_BATCH // devices) * devices
        whole, rest = divmod(len(split), size)
        if not whole and rest < devices:
            raise ValueError(
                f"Expected a test example for each of the {devices} devices at least. "
                f"Received: {rest}; use fewer devices, or add pictures"
            )
        batches = split.batches(size, preprocessing=preprocessing)
        if rest < devices:
            return batches.take(whole)

        def even(images, labels):
            import tensorflow as tf

            count = tf.size(labels) // devices * devices
            return images[:count], labels[:count]

        return batches.map(even)

    def close(self):  # noqa: D102
        import keras

        keras.distribution.set_distribution(self._before)


# Names to the backend and the class.
DISTRIBUTIONS = {
    "mirrored": ("tensorflow", Mirrored),
    "multi_worker": ("tensorflow", MultiWorker),
    "data_parallel": ("jax", DataParallel),
}


def start(name):
    """Start a distribution, before anything else is computed.

    Args:
        name: None for one device, `"mirrored"`, `"multi_worker"` (both TensorFlow) or
            `"data_parallel"` (JAX).

    Returns:
        A `OneDevice`, or one of its subclasses.

    Raises:
        ValueError: for an unknown name, or one of another backend.
    """
    if name is None:
        return OneDevice()
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"The distribution must be None or one of {', '.join(DISTRIBUTIONS)}. "
            f"Received: {name!r}"
        )
    # Imported here: the help of the command line lists the names above, without Keras.
    import keras

    backend, distribution = DISTRIBUTIONS[name]
    if keras.backend.backend() != backend:
        raise ValueError(
            f"The distribution {name!r} needs KERAS_BACKEND={backend}. Received: "
            f"{keras.backend.backend()}; set it in the environment"
        )
    return distribution()
