"""The console script `bn-keras` and `python -m bn_keras`: a quiet start.

While TensorFlow is imported it writes lines to the standard error stream at any log
level, but an error of the command line should be one line. What TensorFlow wrote is
shown only if the start fails.
"""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

# 128 and the number of the signal, as a shell reports it.
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Hold back what this process writes to its standard error stream.

    The file descriptor is redirected, because TensorFlow's C++ code does not write to
    `sys.stderr`.
    """
    import tempfile

    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def main() -> int:
    """Run the command line and return its exit status."""
    # A character that the terminal cannot show must not end hours of work.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # TensorFlow's notes and warnings are about its own work. Its errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # gRPC logs what it also raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Some of the imports swallow a KeyboardInterrupt. There is nothing to clean up yet,
    # so Ctrl-C ends the process at once.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from bn_keras.cli import command_line

    options = command_line.parse()
    try:
        with _silence_stderr():
            options.command.start(options)
    except Exception as error:
        return command_line.report_error(error)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The default action would end the process without running any `finally` block, and
    # leave temporary files behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        status = command_line.run(options)
    except SystemExit as stop:
        if stop.code != _TERMINATED:
            raise
        status = _TERMINATED
    if status in (_INTERRUPTED, _TERMINATED):
        _end_process(status)
    return status


def _end_process(status: int) -> NoReturn:
    """End the process of a command that a signal has stopped.

    Its `finally` blocks have run. The interpreter would now free C++ objects whose
    threads may be in the middle of a run, and such a thread can crash the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
