"""How a client reaches its server: encryption, retries, message sizes.

Knows gRPC's options; no message and no model.
"""

import dataclasses
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

MAXIMUM_RETRIES = 4  # gRPC's own bound: five attempts


@dataclasses.dataclass(frozen=True)
class Tls:
    """Whom to trust, and who asks.

    Attributes:
        ca: PEM file of the authorities to trust; those that gRPC brings by default.
        client_key: PEM file, not encrypted, for a server that asks who calls.
        client_certificate: PEM file of the key's certificate and those above it.
        server_name: Name in the server's certificate, where the address has another.
    """

    ca: str | Path | None = None
    client_key: str | Path | None = None
    client_certificate: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ValueError: A file is not what it should be, or one is missing of two.
            OSError: A file cannot be read.
        """
        # gRPC aborts the whole process for a key alone.
        if (self.client_key is None) != (self.client_certificate is None):
            raise ValueError(
                "`client_key` and `client_certificate` must be given together. "
                f"Received: client_key={self.client_key}, client_certificate="
                f"{self.client_certificate}; add the other"
            )
        files = (self.ca, self.client_key, self.client_certificate)
        contents = [one if one is None else Path(one).read_bytes() for one in files]
        # Of a bad file gRPC says no more than that it could not connect.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise ValueError(
                    f"`ca` must be a PEM file of certificates. Received: ca={self.ca}; "
                    "convert it with openssl x509"
                ) from None
        if self.client_certificate is not None:
            try:
                # A password, lest OpenSSL ask for one on the terminal.
                context.load_cert_chain(self.client_certificate, self.client_key, "")
            except ssl.SSLError:
                raise ValueError(
                    "`client_certificate` and `client_key` must be PEM files that "
                    "belong together, the key not encrypted. Received: "
                    f"client_certificate={self.client_certificate}, "
                    f"client_key={self.client_key}; choose the key that the "
                    "certificate was made for"
                ) from None
        return grpc.ssl_channel_credentials(*contents)


def check(address: str, timeout: float) -> None:
    """Raise ValueError for what no channel can be made of, or no call awaited."""
    if not address:
        raise ValueError(
            "`address` must be host:port or unix:path. Received: an empty one; give "
            "the server's"
        )
    if not timeout > 0:
        raise ValueError(
            f"`timeout` must be seconds above 0. Received: timeout={timeout}"
        )


def options(
    tls: Tls | None, retries: int, wait_for_ready: bool
) -> list[tuple[str, Any]]:
    """Return the options of a channel: message sizes, retries, reconnection."""
    if not 0 <= retries <= MAXIMUM_RETRIES:
        raise ValueError(
            f"`retries` must be from 0 to {MAXIMUM_RETRIES}. Received: "
            f"retries={retries}; use wait_for_ready=True to wait for a server"
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
    found = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", int(bool(retries))),
        ("grpc.service_config", json.dumps({"methodConfig": [method]})),
        # Above it, 256 KiB by default, gRPC silently retries nothing.
        ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
        # By default a server that is back may go unseen for two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if tls is not None and tls.server_name is not None:
        found.append(("grpc.ssl_target_name_override", tls.server_name))
    return found


def methods(channel: Any) -> dict[str, Callable]:
    """Return what carries each `Call` over a channel, by the method's name."""
    predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    return {
        "Predict": predictions.Predict,
        "Classify": predictions.Classify,
        "Regress": predictions.Regress,
        "GetModelMetadata": predictions.GetModelMetadata,
        "GetModelStatus": models.GetModelStatus,
    }
