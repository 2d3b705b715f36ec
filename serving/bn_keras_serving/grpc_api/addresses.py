"""Addresses to listen on, and clear errors if that is impossible."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

MAXIMUM_SOCKET_PATH = 107  # on Linux
LOCK_SECONDS = 5.0


def format_address(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def client_host(host: str) -> str:
    """Return the host under which clients on this machine reach a server."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def check_port(port: int, option: str) -> None:
    """Check that a port number is valid.

    Args:
        port: The port number.
        option: Command-line option that chooses it, for the error message.

    Raises:
        ValueError: If the number is not between 0 and 65535.
    """
    if not 0 <= port < 2**16:
        raise ValueError(
            "A port must be between 0 and 65535, where 0 chooses a free one. Received: "
            f"{port}. Choose another with {option}."
        )


def bind(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Let a server listen on an address, with TLS if credentials are given.

    Returns:
        The port.

    Raises:
        OSError: If the address cannot be used; with the number EADDRINUSE, if another
            server listens on a UNIX socket.
    """
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        with _lock(path.parent):
            _free_socket(path)
            return _add_port(server, address, credentials)
    return _add_port(server, address, credentials)


def _add_port(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        reason = "which cannot be used"
        if credentials is not None:
            reason += ", or a key and a certificate that do not belong together"
        elif address.startswith("unix:"):
            reason = _socket_problem(Path(address.removeprefix("unix:")))
        raise _address_error(errno.EADDRNOTAVAIL, address, reason) from error


def _address_error(number: int | None, address: str, reason: str) -> OSError:
    return OSError(
        number,
        "The server must be able to listen on its address. Received: "
        f"{address}, {reason}.",
    )


def _socket_problem(path: Path) -> str:
    if len(os.fsencode(path)) > MAXIMUM_SOCKET_PATH:
        return f"longer than {MAXIMUM_SOCKET_PATH} bytes. Choose a shorter path"
    if not path.parent.is_dir():
        return "in a folder that does not exist. Create it"
    return "which cannot be created. Choose another path"


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Let only one server at a time look for a socket in a directory and create it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)  # which unlocks it
            end = time.monotonic() + LOCK_SECONDS
            while time.monotonic() < end:  # not for ever: anybody may hold such a lock
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.01)
        yield


def _free_socket(path: Path) -> None:
    """Remove a socket that a server has left behind.

    gRPC would remove any socket, also that of a running server.

    Raises:
        OSError: If a server listens on it, or it is not a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            reason = "which exists and is not a socket. Choose another path"
            raise _address_error(errno.EEXIST, f"unix:{path}", reason)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except TimeoutError:  # it has more connections waiting than it takes
                pass
        reason = "on which another server listens. Stop that server, or choose another"
        reason += " path"
        raise _address_error(errno.EADDRINUSE, f"unix:{path}", reason)


def bind_port(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None,
) -> int:
    """Let a server listen on a port of a host.

    Returns:
        The port; the one that was chosen if `port` is 0.

    Raises:
        ValueError: If the port number is invalid.
        OSError: If the address cannot be used. The message explains why.
    """
    check_port(port, "--port")
    try:
        return bind(server, format_address(host, port), credentials)
    except OSError as error:
        raise bind_error(host, port) or error from None


def bind_error(host: str, port: int, option: str = "--port") -> OSError | None:
    """Return an error that explains why an address cannot be used; None if it can.

    gRPC does not report the reason, so this asks the operating system.

    Args:
        host: Address or name of the interface.
        port: The port number.
        option: Command-line option that chooses the port, for the error message.
    """
    if host in ("", "*"):  # some systems resolve `*`, to an address of one interface
        reason = "which names no host. Give --host 0.0.0.0 or :: for all interfaces"
        return _address_error(errno.EADDRNOTAVAIL, format_address(host, port), reason)
    number = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            # Servers set this option too; without it, connections that were closed
            # recently would count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return None
    except socket.gaierror:
        number = errno.EADDRNOTAVAIL
        reason = "a host name that cannot be resolved. Correct --host"
    except PermissionError:
        number = errno.EACCES
        reason = f"a port reserved for the system. Choose another with {option}"
    except OSError as error:
        number = error.errno
        reason = "a host that is not this machine. Correct --host"
        if number == errno.EADDRINUSE:
            reason = f"in use. Choose another port with {option}; 0 chooses a free one"
        else:
            number = errno.EADDRNOTAVAIL
    return _address_error(number, format_address(host, port), reason)
