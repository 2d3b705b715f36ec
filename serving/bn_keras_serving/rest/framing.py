"""Messages between the server and the processes that convert its documents.

A message is a pickled object, followed by the bytes of its arrays and by a body, which
are neither copied nor joined. Both sides are this program, so pickle is safe.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any

Bytes = bytes | bytearray | memoryview

_SIZE = struct.Struct("<Q")


def send(
    write: Callable[[Bytes], object], message: Any, body: list[Any] | None = None
) -> None:
    """Send an object and a body.

    Args:
        write: Function that sends all of the bytes given to it.
        message: Anything that pickle can handle.
        body: The parts of the body. Each is removed from the list once it is sent:
            memory is free sooner, and Python not busy with it for milliseconds.
    """
    body = body or []
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [pickled, *(buffer.raw() for buffer in buffers)]
    sizes = [*map(len, parts), sum(map(len, body))]
    write(b"".join(map(_SIZE.pack, [len(sizes), *sizes])))
    for part in parts:
        write(part)
    while body:
        write(body.pop(0))


def receive(read: Callable[[int], Bytes]) -> tuple[Any, Bytes]:
    """Receive an object and a body.

    Args:
        read: Function that returns as many bytes as it is told, or fewer at the end of
            the stream.

    Raises:
        EOFError: If the stream ends before or within the message.
    """

    def read_exactly(size: int) -> Bytes:
        received = read(size)
        if len(received) < size:
            raise EOFError
        return received

    (count,) = _SIZE.unpack(read_exactly(_SIZE.size))
    header = read_exactly(count * _SIZE.size)
    pickled, *buffers, body = [
        read_exactly(size) for (size,) in _SIZE.iter_unpack(header)
    ]
    return pickle.loads(pickled, buffers=buffers), body
