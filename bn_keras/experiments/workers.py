"""Run the parts of an experiment in worker processes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from bn_keras import devices
from bn_keras.experiments import data_sets


def run_in_processes(
    function: Callable[..., Any],
    items: Sequence[Any],
    arguments: tuple[Any, ...],
    jobs: int,
    on_result: Callable[[Any, Any], Any],
) -> None:
    """Call a function for each item in worker processes.

    Args:
        function: Called as `function(item, *arguments)` in a worker process.
        items: The items, which must be picklable.
        arguments: The other arguments, which must be picklable too.
        jobs: The number of processes. Each uses its share of the processors, also if
            there are fewer items than processes.
        on_result: Called as `on_result(item, result)` in this process as results come.

    Raises:
        ValueError: If a worker process ends unexpectedly.
    """
    other_processes = set(active_children())
    # TensorFlow does not survive a fork, so workers are new interpreters.
    context = get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(items)), context, _start_worker, (jobs, context.Lock())
    ) as pool:
        futures = {pool.submit(function, item, *arguments): item for item in items}
        try:
            for future in as_completed(futures):
                on_result(futures[future], future.result())
        except BrokenProcessPool as error:
            raise ValueError(
                "Every worker process must finish its work. Received: a process that "
                f"ended unexpectedly, with jobs={jobs}. If memory is short, use fewer "
                "processes (--jobs)"
            ) from error
        except BaseException:
            with _ignore_signals():
                # Leaving the `with` block would otherwise wait for the running items.
                pool.shutdown(wait=False, cancel_futures=True)
                workers = set(active_children()) - other_processes
                for worker in workers:
                    worker.terminate()
                for worker in workers:
                    worker.join()
            raise


@contextmanager
def _ignore_signals() -> Iterator[None]:
    """Ignore a second Ctrl-C or SIGTERM while the workers are being stopped."""
    # Python allows only the main thread to set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start_worker(jobs, download_lock):
    """Limit this worker to its share of the processors, and to its parent's life."""
    data_sets.share_download_lock(download_lock)
    # Ctrl-C reaches every process of the terminal. The parent stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    devices.configure_keras()
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        threads = max(1, (os.cpu_count() or 1) // jobs)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _exit_with_parent():
    # If the parent is killed, nobody stops its workers: they would wait for the next
    # item forever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
