"""Names and addresses of this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host is one that only this machine can connect to."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def is_ip_address(host: str) -> bool:
    """Return whether a host is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_host_header(header: str) -> str:
    """Return the name or address in an HTTP `Host` header, without the port.

    Example:
        ```python
        from bn_keras_serving.common.hosts import read_host_header

        assert read_host_header("Example.org.:8501") == "example.org"
        assert read_host_header("[::1]:8501") == "::1"
        ```
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower().removesuffix(".")
