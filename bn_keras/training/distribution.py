"""Training on several devices and machines, by TensorFlow's and Keras' own means."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

    from bn_keras.data import Split
    from bn_keras.images.preprocessing import Preprocessing

# The number of test examples in a batch.
TEST_BATCH = 256


class OneDevice:
    """Trains on the device that the backend chooses.

    Attributes:
        replicas: The number of devices, of all machines.
        machines: The number of machines.
        machine: The index of this machine.
    """

    replicas: int = 1
    machines: int = 1
    machine: int = 0

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which the model is built and compiled."""
        return nullcontext()

    def training_input(
        self,
        make_part: "Callable[[tuple[int, int]], tf.data.Dataset[Any]]",
        batch_size: int,
    ) -> Any:
        """Return what `fit` trains on.

        Args:
            make_part: Called with `(machine, machines)`, returns a `tf.data.Dataset` of
                this machine's part of each mini-batch.
            batch_size: The number of examples in a mini-batch, on all machines.
        """
        return make_part((self.machine, self.machines))

    def validation_input(self, split: "Split", preprocessing: "Preprocessing") -> Any:
        """Return what `fit` validates on. Every machine uses all examples.

        Args:
            split: The test examples.
            preprocessing: A `Preprocessing`.
        """
        return split.batches(TEST_BATCH, preprocessing=preprocessing)

    def close(self) -> None:
        """Restore the state of the backend."""

    def describe(self) -> str:
        """Return the devices in words: how many, and what they are called."""
        import keras

        devices = ", ".join(keras.distribution.list_devices())
        replicas = f"{self.replicas} replica{'s' if self.replicas > 1 else ''}"
        if self.machines > 1:
            replicas += f" on {self.machines} machines"
        return f"{replicas}, devices {devices} of {keras.backend.backend()}"


class Mirrored(OneDevice):
    """Trains on all GPUs of this machine (or its logical CPUs): `MirroredStrategy`."""

    def __init__(self) -> None:
        import tensorflow as tf

        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        self.strategy = tf.distribute.MirroredStrategy(devices)
        self.replicas = self.strategy.num_replicas_in_sync

    def scope(self) -> AbstractContextManager[Any]:  # noqa: D102 (see OneDevice)
        return self.strategy.scope()


class MultiWorker(Mirrored):
    """Trains on the machines in TF_CONFIG: `MultiWorkerMirroredStrategy`."""

    def __init__(self) -> None:
        import tensorflow as tf

        _check_cluster()

        class Strategy(tf.distribute.MultiWorkerMirroredStrategy):
            """A strategy whose `reduce` accepts what Keras' `fit` passes to it.

            `fit` reduces a tuple to determine shapes, and numbers along their first
            axis. TensorFlow rejects both (keras#20585).
            """

            def reduce(self, reduce_op, value, axis):
                if isinstance(value, tuple):
                    return tuple(
                        self.experimental_local_results(item)[0] for item in value
                    )
                if self.experimental_local_results(value)[0].shape.rank == 0:
                    axis = None
                return super().reduce(reduce_op, value, axis)

        self.strategy = Strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        resolver = self.strategy.cluster_resolver
        self.machine = resolver.task_id
        self.machines = resolver.cluster_spec().num_tasks("worker")

    def training_input(self, make_part, batch_size):  # noqa: D102
        # TensorFlow's automatic sharding would give the machines other examples in a
        # step than a single machine would have.
        return self.strategy.distribute_datasets_from_function(
            lambda context: make_part(
                (context.input_pipeline_id, context.num_input_pipelines)
            ).rebatch(batch_size // self.replicas)
        )

    def validation_input(self, split, preprocessing):  # noqa: D102
        return self.strategy.distribute_datasets_from_function(
            lambda _: super(MultiWorker, self).validation_input(split, preprocessing)
        )


def _check_cluster() -> None:
    """Raise a `ValueError` if TF_CONFIG is not of a cluster of workers only."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        is_valid = task["type"] == "worker" and 0 <= int(task["index"]) < len(workers)
        is_valid = is_valid and set(config["cluster"]) == {"worker"}
    except (ValueError, KeyError, TypeError):
        is_valid = False
    if not is_valid:
        raise ValueError(
            "TF_CONFIG in the environment must name a cluster of workers only, and the "
            "index of this one, for multi_worker. Received: "
            f"TF_CONFIG={text or 'none'}. Set it on each machine, as "
            "docs/how-to/several-machines.md shows."
        )


class DataParallel(OneDevice):
    """Trains on all devices of JAX, of all processes: `keras.distribution`."""

    def __init__(self) -> None:
        import keras

        if os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
            import jax

            # The only means by which JAX connects the CPUs of two processes.
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            keras.distribution.initialize()
        import jax

        self.machine, self.machines = jax.process_index(), jax.process_count()
        self.replicas = jax.device_count()
        self._former_distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(
            # The input is divided already, by `make_part`.
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )

    def validation_input(self, split, preprocessing):  # noqa: D102
        # JAX only divides a batch evenly over its devices. So the last batch is cut to
        # a multiple: fewer examples are left out than there are devices.
        devices = self.replicas // self.machines
        size = max(1, TEST_BATCH // devices) * devices
        full_batches, rest = divmod(len(split), size)
        if not full_batches and rest < devices:
            raise ValueError(
                f"Each of the {devices} devices must get at least one test example. "
                f"Received: {rest} examples. Use fewer devices, or add images."
            )
        batches = split.batches(size, preprocessing=preprocessing)
        if rest < devices:
            return batches.take(full_batches)

        def truncate(images, labels):
            import tensorflow as tf

            count = tf.size(labels) // devices * devices
            return images[:count], labels[:count]

        return batches.map(truncate)

    def close(self) -> None:  # noqa: D102
        import keras

        keras.distribution.set_distribution(self._former_distribution)


# The backend and the class of each distribution.
DISTRIBUTIONS: dict[str, tuple[str, type[OneDevice]]] = {
    "mirrored": ("tensorflow", Mirrored),
    "multi_worker": ("tensorflow", MultiWorker),
    "data_parallel": ("jax", DataParallel),
}


def start(name: str | None) -> OneDevice:
    """Start a distribution. Nothing must be computed before.

    Args:
        name: `None` for one device, `"mirrored"`, `"multi_worker"` (both TensorFlow)
            or `"data_parallel"` (JAX).

    Returns:
        A `OneDevice`, or an instance of one of its subclasses.

    Raises:
        ValueError: If the name is unknown, or the distribution needs another backend.

    Example:
    ```python
    from bn_keras.training import distribution

    assert distribution.start(None).replicas == 1
    ```
    """
    if name is None:
        return OneDevice()
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"`name` must be None or one of {', '.join(DISTRIBUTIONS)}. "
            f"Received: name={name!r}"
        )
    # Imported here: the help of the command line lists the names above, without Keras.
    import keras

    backend, distribution = DISTRIBUTIONS[name]
    if keras.backend.backend() != backend:
        raise ValueError(
            f"The distribution {name!r} must run on the backend {backend}. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND={backend}."
        )
    return distribution()
