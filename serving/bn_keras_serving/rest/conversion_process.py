"""The process that converts large documents: `python -m` this module.

It receives functions of `json_requests` and `json_answers` with their arguments on its
standard input, and sends their results to its standard output. A process of its own
holds no lock that other requests need, and imports no TensorFlow.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from pathlib import Path

# Imported before the first message names their functions.
from bn_keras_serving.common.errors import ServingError
from bn_keras_serving.rest import framing, json_answers, json_requests  # noqa: F401

# Other work goes first: a conversion takes long in any case.
_NICENESS = 10


def main() -> None:
    """Convert documents until the standard input ends, as it does with the server."""
    # They are meant for the server, which ends this process when it needs it no more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    # Documents have no reference cycles. A search for some among millions of lists
    # takes longer than to make these.
    gc.disable()
    gc.freeze()
    # If memory runs out, Linux ends this process rather than the server.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"\0")  # ready
    answers.flush()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message, body = framing.receive(requests.read)
            function, arguments, has_body = message
            try:
                result = function(*((body,) if has_body else ()), *arguments)
            except ServingError as error:
                result = error
            except Exception:
                result = RuntimeError(traceback.format_exc())
            del message, body, arguments
            document = result if isinstance(result, list) else []
            framing.send(answers.write, None if document else result, document)
            answers.flush()
            del result, document
            gc.collect()  # little is left
    # The answer that nobody has taken would be another error at the end.
    os._exit(0)


if __name__ == "__main__":
    main()
