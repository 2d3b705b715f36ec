"""Addresses to listen on, and why one cannot be.

Knows no service.
"""

import errno
import socket

import grpc


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
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"Expected an address that can be listened on. Received: {address}, and "
            "with TLS a key and certificate that belong together.",
        ) from error


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
