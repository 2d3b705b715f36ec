"""Addresses to listen on, and why one cannot be.

Knows no service.
"""

import errno
import os
import socket
from pathlib import Path

import grpc

MAXIMUM_SOCKET_PATH = 107  # of Linux


def joined(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached(host: str) -> str:
    """The host by which this machine's own clients reach a server there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def check_port(port: int, option: str) -> None:
    """Raise ValueError unless a port is one; `option` is where it was chosen."""
    if not 0 <= port < 2**16:
        raise ValueError(
            "Expected a port from 0 to 65535, 0 for any free one. "
            f"Received: {port}; choose one with {option}."
        )


def bind(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Let a server listen on an address, with TLS or without; returns the port.

    Raises:
        OSError: It cannot be listened on.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        why = "which cannot be"
        if credentials is not None:
            why += ", or a key and a certificate that do not belong together"
        elif address.startswith("unix:"):
            why = _why_no_socket(Path(address.removeprefix("unix:")))
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"Expected an address that can be listened on. Received: {address}, {why}.",
        ) from error


def _why_no_socket(path: Path) -> str:
    if len(os.fsencode(path)) > MAXIMUM_SOCKET_PATH:
        return f"longer than {MAXIMUM_SOCKET_PATH} bytes; choose a shorter path"
    if not path.parent.is_dir():
        return "in a folder that is not there; make it"
    if path.exists():
        return "which exists; choose another path"
    return "which cannot be written; choose another path"


def bind_port(
    server: grpc.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None,
) -> int:
    """Let a server listen on a port of a host; returns the port, that chosen for 0.

    Raises:
        ValueError: No such port.
        OSError: It cannot be listened on; the message tells why.
    """
    check_port(port, "--port")
    try:
        return bind(server, joined(host, port), credentials)
    except OSError as error:
        raise why_not(host, port) or error from None


def why_not(host: str, port: int, option: str = "--port") -> OSError | None:
    """Ask the system why an address cannot be listened on; None where it can be.

    gRPC does not tell.
    """
    number = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            # As servers do, lest connections that have ended count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return None
    except socket.gaierror:
        number = errno.EADDRNOTAVAIL
        why = "a host that no name is known for; correct --host"
    except PermissionError:
        number = errno.EACCES
        why = f"a port kept for the system; choose another with {option}"
    except OSError as error:
        number = error.errno
        why = "a host not of this machine; correct --host"
        if number == errno.EADDRINUSE:
            why = f"taken; choose another port with {option}, 0 for any free one"
        else:
            number = errno.EADDRNOTAVAIL
    return OSError(
        number,
        "Expected an address free to listen on. Received: "
        f"{joined(host, port)}, {why}.",
    )
