"""Batching of concurrent requests by TensorFlow's own batching kernel."""

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bn_keras_serving.common import tensors
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable.signature import Function

# Queues of a signature, for as many shapes at a time. Each optimizes its own graph,
# which takes seconds for a large model, and keeps a copy of its constants.
MAXIMUM_QUEUES = 4

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
    independent of the requests that share its batch. Only inputs of the same shape,
    but for the first axis, share a batch; beyond `MAXIMUM_QUEUES` shapes at a time,
    calls run alone. If a batch fails, its calls run again, each alone, with the same
    padding: one that is at fault fails alone. (TensorFlow Serving fails all calls of a
    batch, in both cases.)

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

    # `tf.nondifferentiable_batch_function` gives every function the same name in this
    # operation, and functions of one name share a queue: rows would be answered by
    # another model. Hence the raw operation.
    def create_queue() -> Callable[..., list[tf.Tensor]]:
        name = _new_queue_name()

        def enqueue(*arguments: tf.Tensor) -> list[tf.Tensor]:
            return tf.raw_ops.BatchFunction(
                in_tensors=list(arguments),
                captured_tensors=computation.captured_inputs,
                f=computation,
                Tout=[output.dtype for output in computation.outputs],
                # All queues with the same parameters share one scheduler, as in
                # TensorFlow Serving: its threads live as long as the process, while
                # versions come and go.
                shared_name=repr(parameters),
                batching_queue=name,
                **settings,
            )

        return tf.function(
            enqueue, input_signature=specs, autograph=False
        ).get_concrete_function()

    queues = _Queues(create_queue)
    slots = threading.Semaphore(parameters.num_batch_threads)

    def run(arguments: list[tf.Tensor], seconds: float | None) -> Sequence[tf.Tensor]:
        start = time.monotonic()
        fits = _fits(arguments, parameters)
        # The kernel refuses a call that does not fit, whatever is in the queue.
        shapes = tuple(argument.shape[1:] for argument in arguments) if fits else None
        with queues.use(shapes) as queue:
            if queue is not None:
                try:
                    return queue.enqueue(*arguments)
                except tf.errors.OpError as error:
                    is_late = seconds is not None and time.monotonic() > start + seconds
                    if (
                        is_late
                        or not queue.was_shared
                        or isinstance(error, tf.errors.UnavailableError)  # it is full
                        or not fits
                    ):
                        raise
        with slots:
            return _run_alone(computation, arguments, settings["allowed_batch_sizes"])

    def call(
        arrays: dict[str, np.ndarray], requested: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        arguments = [tf.constant(arrays[name], inputs[name].dtype) for name in names]
        outputs = dict(zip(output_names, run(arguments, seconds), strict=True))
        return {name: tensors.to_array(outputs[name]) for name in requested}

    return call


class _Queue:
    """A queue of the kernel, and the calls that are in it.

    Args:
        enqueue: Function that runs a call through the queue.

    Attributes:
        enqueue: The same.
        key: What the calls in it have in common.
        calls: Their number.
        was_shared: Whether there has been more than one since it was empty.
    """

    def __init__(self, enqueue: Callable[..., list[tf.Tensor]]):
        self.enqueue = enqueue
        self.key: Hashable = None
        self.calls = 0
        self.was_shared = False


class _Queues:
    """The queues of a batched function. Calls with the same key share one.

    Args:
        create: Function that creates a queue of the kernel, and returns the function
            that runs a call through it.
    """

    def __init__(self, create: Callable[[], Callable[..., list[tf.Tensor]]]):
        self._create = create
        self._lock = threading.Lock()  # guards everything below
        self._queues = [_Queue(create())]

    @contextlib.contextmanager
    def use(self, key: Hashable) -> Iterator[_Queue | None]:
        """Lend the queue for a key; None if there are too many keys at a time.

        Args:
            key: What the calls of a queue have in common; None for any queue.
        """
        with self._lock:
            queue = self._find(key)
            if queue is not None:
                queue.was_shared = queue.calls > 0
                if not queue.calls:
                    queue.key = key
                queue.calls += 1
        try:
            yield queue
        finally:
            if queue is not None:
                with self._lock:
                    queue.calls -= 1

    def _find(self, key: Hashable) -> _Queue | None:
        """Return the queue for a key, or else an empty one; `_lock` must be held."""
        if key is None:
            return self._queues[0]
        empty = None
        for queue in self._queues:
            if not queue.calls:
                empty = empty or queue
            elif queue.key == key:
                return queue
        if empty is not None:
            return empty
        if len(self._queues) >= MAXIMUM_QUEUES:
            return None
        self._queues.append(_Queue(self._create()))
        return self._queues[-1]


def _fits(arguments: list[tf.Tensor], parameters: BatchingParameters) -> bool:
    """Return whether the kernel accepts inputs: as many rows of each, not too many."""
    rows = {int(argument.shape[0] or 0) for argument in arguments}
    return len(rows) == 1 and 0 < min(rows) <= parameters.max_batch_size


def _run_alone(
    computation: Callable[..., Sequence[tf.Tensor]],
    arguments: list[tf.Tensor],
    sizes: list[int],
) -> list[tf.Tensor]:
    """Run a call as the kernel runs a batch with no other call.

    Args:
        computation: The function, from inputs to outputs.
        arguments: The inputs, with as many rows each.
        sizes: Sizes that batches are padded to; empty for no padding.
    """
    total = int(arguments[0].shape[0] or 0)
    largest = sizes[-1] if sizes else total
    parts: list[list[tf.Tensor]] = []
    for start in range(0, total, largest):
        rows = min(largest, total - start)
        size = next((size for size in sizes if size >= rows), rows)
        outputs = computation(
            *(
                tf.concat(
                    [
                        argument[start : start + rows],
                        tf.repeat(argument[start : start + 1], size - rows, axis=0),
                    ],
                    axis=0,
                )
                for argument in arguments
            )
        )
        for output in outputs:
            if not output.shape.rank or output.shape[0] != size:
                raise tf.errors.FailedPreconditionError(
                    None, None, "Every output must have as many rows as the inputs."
                )
        parts.append([output[:rows] for output in outputs])
    return [tf.concat(pieces, axis=0) for pieces in zip(*parts, strict=True)]


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
