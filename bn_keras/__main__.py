"""The console script `bn-keras`: starts the command line quietly.

TensorFlow writes some lines to the standard error stream while it is imported, whatever
its log level, and an error of the command line shall be one line. What it wrote is
shown again if the start fails; Ctrl-C ends it without a word. `python -m bn_keras` is
the same command without this.
"""

import io
import os
import signal
import sys
import tempfile
from contextlib import contextmanager


@contextmanager
def _silenced():
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main():
    """Run the command line and return its exit status."""
    # TensorFlow's notes and warnings are about its own work; its errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # gRPC logs what it also raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The imports swallow some exceptions, and have nothing yet to clear away.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    with _silenced():
        from bn_keras.cli import command_line

        command_line.start_backend()
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A character that a terminal does not know must not end hours of work.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # An exit, unlike death by the signal, lets every `finally` clear its files away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return command_line.main()


if __name__ == "__main__":
    sys.exit(main())
