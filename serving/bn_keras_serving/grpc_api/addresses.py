"""Addresses to listen on, and clear errors if that is impossible."""

import errno
import os
import socket
from pathlib import Path

import grpc

MAXIMUM_SOCKET_PATH = 107  # on Linux


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
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Let a server listen on an address, with TLS if credentials are given.

    Returns:
        The port.

    Raises:
        OSError: If the address cannot be used.
    """
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
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"The server must be able to listen on its address. Received: {address}, "
            f"{reason}.",
        ) from error


def _socket_problem(path: Path) -> str:
    if len(os.fsencode(path)) > MAXIMUM_SOCKET_PATH:
        return f"longer than {MAXIMUM_SOCKET_PATH} bytes. Choose a shorter path"
    if not path.parent.is_dir():
        return "in a folder that does not exist. Create it"
    if path.exists():
        return "which already exists. Choose another path"
    return "which cannot be created. Choose another path"


def bind_port(
    server: grpc.Server,
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
    return OSError(
        number,
        "The server must be able to listen on its address. Received: "
        f"{format_address(host, port)}, {reason}.",
    )
