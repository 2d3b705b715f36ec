"""Batching of concurrent requests by TensorFlow's own batching kernel."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bn_keras_serving.common import tensors
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable.signature import Function

_queue_count = 0
_queue_count_lock = threading.Lock()


def can_batch(inputs: Mapping[str, tf.TensorSpec]) -> bool:
    """Return whether every input has a first axis of unknown size."""
    return bool(inputs) and all(
        spec.shape.rank is not None and spec.shape.rank > 0 and spec.shape[0] is None
        for spec in inputs.values()
    )


def batch_function(
    function: Callable[..., dict[str, tf.Tensor]],
    inputs: Mapping[str, tf.TensorSpec],
    parameters: BatchingParameters,
) -> Function:
    """Combine concurrent calls of a function into batches.

    A call waits up to `batch_timeout_micros` for others. The inputs are concatenated
    along the first axis and padded to the next of `allowed_batch_sizes`, and each call
    gets its own rows of the result. With a single allowed size, an answer is bitwise
    independent of the requests that share its batch. An error fails every call of its
    batch.

    Args:
        function: A loaded signature, from keyword arguments to a dictionary.
        inputs: Input name to `tf.TensorSpec`; `can_batch(inputs)` must be true.
        parameters: Sizes, time-out and threads. Functions with equal parameters share
            their threads, but each has a queue of its own.

    Returns:
        A function for a `Signature`. A waiting call cannot be interrupted. The function
        raises TensorFlow's errors: `InvalidArgumentError` for a request larger than
        `max_batch_size`, `UnavailableError` if the queue is full.

    Reference:
        `tensorflow/core/kernels/batch_kernels.cc`, `BatchFunction`.
    """
    names = sorted(inputs)
    specs = [inputs[name] for name in names]
    output_names: list[str] = []

    # The kernel takes and returns lists of tensors. The output names become known when
    # this function is traced, just below.
    def compute(*arguments: tf.Tensor) -> list[tf.Tensor]:
        results = function(**dict(zip(names, arguments, strict=True)))
        output_names[:] = sorted(results)
        return [results[name] for name in output_names]

    computation = tf.function(
        compute, input_signature=specs, autograph=False
    ).get_concrete_function()
    settings = _kernel_settings(parameters)
    queue = _new_queue_name()

    # `tf.nondifferentiable_batch_function` gives every function the same name in this
    # operation, and functions of one name share a queue: rows would be answered by
    # another model. Hence the raw operation.
    def enqueue(*arguments: tf.Tensor) -> list[tf.Tensor]:
        return tf.raw_ops.BatchFunction(
            in_tensors=list(arguments),
            captured_tensors=computation.captured_inputs,
            f=computation,
            Tout=[output.dtype for output in computation.outputs],
            # All queues with the same parameters share one scheduler, as in TensorFlow
            # Serving: its threads live as long as the process, while versions come
            # and go.
            shared_name=repr(parameters),
            batching_queue=queue,
            **settings,
        )

    entry_point = tf.function(
        enqueue, input_signature=specs, autograph=False
    ).get_concrete_function()

    def call(
        arrays: dict[str, np.ndarray], requested: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        arguments = [tf.constant(arrays[name], inputs[name].dtype) for name in names]
        outputs = dict(zip(output_names, entry_point(*arguments), strict=True))
        return {name: tensors.to_array(outputs[name]) for name in requested}

    return call


def _kernel_settings(parameters: BatchingParameters) -> dict[str, Any]:
    """Return the attributes of `BatchFunction`, which differ from the parameters."""
    allowed = list(parameters.allowed_batch_sizes)
    execution_size = parameters.max_execution_batch_size
    if parameters.enable_large_batch_splitting and not allowed and execution_size:
        # The kernel has no attribute for the size of an execution: it uses the last
        # allowed size.
        allowed = list(range(1, execution_size + 1))
    return {
        "num_batch_threads": parameters.num_batch_threads,
        "max_batch_size": parameters.max_batch_size,
        "batch_timeout_micros": parameters.batch_timeout_micros,
        "max_enqueued_batches": parameters.max_enqueued_batches,
        "allowed_batch_sizes": allowed,
        "enable_large_batch_splitting": parameters.enable_large_batch_splitting,
    }


def _new_queue_name() -> str:
    """Return a name that no queue of this process has had before."""
    global _queue_count
    # Versions load in parallel, one thread per model.
    with _queue_count_lock:
        _queue_count += 1
        return f"queue-{_queue_count}"
