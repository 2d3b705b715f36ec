"""The connection of a client: encryption, retries, message sizes and methods."""

import dataclasses
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from bn_keras_serving.common import messages

MAXIMUM_RETRIES = 4  # gRPC makes at most five attempts


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificates for an encrypted connection.

    Args:
        ca: PEM file of the certificate authorities to trust. By default those that
            gRPC ships with.
        client_key: PEM file of a private key without a password, for a server that
            requires clients to identify themselves.
        client_certificate: PEM file of the key's certificate and its issuers'.
        server_name: Name in the server's certificate, if it differs from the host in
            the address.

    Example:
        ```python
        from bn_keras_serving import Tls

        tls = Tls(ca="authority.pem", server_name="models.example.org")
        ```
    """

    ca: str | Path | None = None
    client_key: str | Path | None = None
    client_certificate: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and return credentials for a channel.

        Raises:
            ValueError: A file does not hold what it should, or only one of
                `client_key` and `client_certificate` is set.
            OSError: A file cannot be read.
        """
        # gRPC aborts the whole process if it gets a key without a certificate.
        if (self.client_key is None) != (self.client_certificate is None):
            raise ValueError(
                "`client_key` and `client_certificate` must be given together. "
                f"Received: client_key={self.client_key}, "
                f"client_certificate={self.client_certificate}. Set both or neither."
            )
        files = (self.ca, self.client_key, self.client_certificate)
        contents = [None if file is None else Path(file).read_bytes() for file in files]
        # gRPC would only report that it cannot connect; OpenSSL names the bad file.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise ValueError(
                    "`ca` must be a PEM file of certificates. Received: "
                    f"ca={self.ca}. Convert it with `openssl x509`."
                ) from None
        if self.client_certificate is not None:
            try:
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.client_certificate, self.client_key, "")
            except ssl.SSLError:
                raise ValueError(
                    "`client_certificate` and `client_key` must be PEM files of a "
                    "certificate and its key, the key without a password. Received: "
                    f"client_certificate={self.client_certificate}, "
                    f"client_key={self.client_key}. Use the key for which the "
                    "certificate was issued."
                ) from None
        return grpc.ssl_channel_credentials(*contents)


def connect(
    api: Any,
    address: str,
    timeout: float,
    tls: Tls | None,
    retries: int,
    wait_for_ready: bool,
) -> Any:
    """Open a channel to a server, after checking the arguments of a client.

    Args:
        api: `grpc` or `grpc.aio`.

    Raises:
        ValueError: An argument is out of range, or the TLS files do not fit.
        OSError: A TLS file cannot be read.
    """
    if not address:
        raise ValueError(
            "`address` must be host:port or unix:path. Received: address=''. Pass the "
            "address at which the server listens."
        )
    if not timeout > 0:
        raise ValueError(
            "`timeout` must be a number of seconds above 0. Received: "
            f"timeout={timeout}."
        )
    options = _options(tls, retries, wait_for_ready)
    if tls is None:
        return api.insecure_channel(address, options)
    return api.secure_channel(address, tls.credentials(), options)


def methods(channel: Any) -> dict[str, Callable[..., Any]]:
    """Return the remote methods of a server, by the name of the method."""
    return {
        method.name: channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=messages.message_class(
                method.input_type
            ).SerializeToString,
            response_deserializer=messages.message_class(method.output_type).FromString,
        )
        for service in messages.SERVICES
        for method in service.methods
    }


def _options(
    tls: Tls | None, retries: int, wait_for_ready: bool
) -> list[tuple[str, Any]]:
    if not 0 <= retries <= MAXIMUM_RETRIES:
        raise ValueError(
            f"`retries` must be from 0 to {MAXIMUM_RETRIES}. Received: "
            f"retries={retries}. To wait for a server, pass wait_for_ready=True."
        )
    method: dict[str, Any] = {"name": [{}], "waitForReady": wait_for_ready}
    if retries:
        method["retryPolicy"] = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2.5,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    options: list[tuple[str, Any]] = [
        # Batches of images exceed gRPC's default of 4 MiB.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", int(bool(retries))),
        ("grpc.service_config", json.dumps({"methodConfig": [method]})),
        # gRPC silently does not retry requests above this size, by default 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
        # With the default pauses a restarted server may be missed for two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
