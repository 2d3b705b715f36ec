"""The console script `bn-keras`: starts the command line quietly.

TensorFlow writes some lines to the standard error stream while it is imported, whatever
its log level, and an error of the command line shall be one line. What it wrote is
shown again if the start fails. `python -m bn_keras` is the same command without this.
"""

import os
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
    # Level 1 hides the notes that TensorFlow makes while it works, not its warnings.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # gRPC logs what it also raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with _silenced():
            from bn_keras import cli

            cli.start_backend()
    except KeyboardInterrupt:
        return 130
    return cli.main()
