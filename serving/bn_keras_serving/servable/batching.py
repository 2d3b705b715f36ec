"""Put a signature's function behind TensorFlow's own batching kernel.

Knows no request, no version on disk and no transport.
"""

import threading
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from bn_keras_serving.common import tensors
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable.signature import Function

_queues = 0
_guard = threading.Lock()


def can_batch(inputs: Mapping[str, tf.TensorSpec]) -> bool:
    """Tell whether every input has a first axis of any size."""
    return bool(inputs) and all(
        spec.shape.rank is not None and spec.shape.rank > 0 and spec.shape[0] is None
        for spec in inputs.values()
    )


def batched(
    function: Callable[..., dict],
    inputs: Mapping[str, tf.TensorSpec],
    parameters: BatchingParameters,
) -> Function:
    """Gather the calls of a function into batches.

    Calls wait up to `batch_timeout_micros` for others, are put one behind the other
    along the first axis, padded to the next of `allowed_batch_sizes`, and answered each
    with its own rows. With one allowed size an answer does not depend on who shares
    the batch, bit for bit. An error fails all calls of its batch.

    Args:
        function: A loaded signature, keyword arguments to dictionary.
        inputs: Input name to `tf.TensorSpec`; `can_batch` of them is true.
        parameters: Sizes, waits and threads. Functions of equal parameters share the
            threads, each has its queue.

    Returns:
        A function for a `Signature`. A call that waits is not interrupted. It raises
        what TensorFlow raises:
        `InvalidArgumentError` for a task larger than `max_batch_size`,
        `UnavailableError` when the queue is full.

    Reference:
        `tensorflow/core/kernels/batch_kernels.cc`, `BatchFunction`.
    """
    names = sorted(inputs)
    specs = [inputs[name] for name in names]
    outputs: list[str] = []

    def computation(*given):
        results = function(**dict(zip(names, given, strict=True)))
        outputs[:] = sorted(results)
        return [results[name] for name in outputs]

    computed = tf.function(
        computation, input_signature=specs, autograph=False
    ).get_concrete_function()
    settings = _settings(parameters)
    queue = _new_queue()

    # `tf.nondifferentiable_batch_function` calls this operation with one name for
    # every function, and functions of one name share a queue: rows would be
    # answered by another model.
    def enqueue(*given):
        return tf.raw_ops.BatchFunction(
            in_tensors=list(given),
            captured_tensors=computed.captured_inputs,
            f=computed,
            Tout=[one.dtype for one in computed.outputs],
            # All queues of the same parameters share one scheduler, as in TensorFlow
            # Serving: its threads live as long as the process, versions come and go.
            shared_name=repr(parameters),
            batching_queue=queue,
            **settings,
        )

    entry = tf.function(
        enqueue, input_signature=specs, autograph=False
    ).get_concrete_function()

    def call(
        arrays: dict[str, np.ndarray], wanted: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        given = [tf.constant(arrays[name], inputs[name].dtype) for name in names]
        answers = dict(zip(outputs, entry(*given), strict=True))
        return {name: tensors.to_array(answers[name]) for name in wanted}

    return call


def _settings(parameters: BatchingParameters) -> dict:
    allowed = list(parameters.allowed_batch_sizes)
    execution = parameters.max_execution_batch_size
    if parameters.enable_large_batch_splitting and not allowed and execution:
        # The kernel takes the size of an execution from the last allowed one.
        allowed = list(range(1, execution + 1))
    return {
        "num_batch_threads": parameters.num_batch_threads,
        "max_batch_size": parameters.max_batch_size,
        "batch_timeout_micros": parameters.batch_timeout_micros,
        "max_enqueued_batches": parameters.max_enqueued_batches,
        "allowed_batch_sizes": allowed,
        "enable_large_batch_splitting": parameters.enable_large_batch_splitting,
    }


def _new_queue() -> str:
    """A name that no queue of this process has had."""
    global _queues
    with _guard:
        _queues += 1
        return f"queue-{_queues}"
