"""Readers for TensorFlow Serving's configuration files."""

import dataclasses
import os
import re
from pathlib import Path

from google.protobuf.message import Message  # a type that checkers know
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.configuration.text_messages import new_message, read_text_message

PLATFORM = "tensorflow"


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are combined into batches. Defaults as in TensorFlow Serving.

    Attributes:
        max_batch_size: Maximum number of examples in a request; without splitting, also
            in a batch.
        batch_timeout_micros: Maximum time to wait for a batch to fill, in microseconds.
        max_enqueued_batches: Maximum number of waiting batches, for each signature.
        num_batch_threads: Number of batches that run at a time, over all signatures.
        thread_pool_name: Name of the threads.
        allowed_batch_sizes: Sizes that batches are padded to; empty for no padding.
        enable_large_batch_splitting: Whether a large request is run in parts.
        max_execution_batch_size: Size of the parts; None for `max_batch_size`.

    Raises:
        ValueError: If a number is too small, or the allowed sizes do not increase up to
            the largest size that is run.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=available_processors)
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, minimum in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
            ("max_execution_batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(
                    f"`{name}` must be {minimum} or more. Received: {name}={value}"
                )
        name, largest = "max_batch_size", self.max_batch_size
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            name, largest = "max_execution_batch_size", self.max_execution_batch_size
        if largest > self.max_batch_size:
            raise ValueError(
                f"`{name}` must be at most `max_batch_size`. Received: "
                f"{name}={largest}, max_batch_size={self.max_batch_size}"
            )
        sizes = list(self.allowed_batch_sizes)
        if sizes and (
            sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != largest
        ):
            raise ValueError(
                "`allowed_batch_sizes` must be positive and increasing, and the last "
                f"must equal `{name}`. Received: allowed_batch_sizes={sizes}, "
                f"{name}={largest}"
            )


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Whether metrics are provided for Prometheus, and at which path of the REST port.

    Attributes:
        enable: Whether metrics are provided.
        path: HTTP path of the metrics.
    """

    enable: bool = False
    path: str = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class ServerTls:
    """Keys and certificates for gRPC, as PEM text.

    Attributes:
        server_key: Private key of the server.
        server_cert: Certificate of the server.
        custom_ca: Certificates of the authorities that sign clients' certificates.
        client_verify: Whether clients must present a certificate.
    """

    server_key: str = dataclasses.field(repr=False)
    server_cert: str = dataclasses.field(repr=False)
    custom_ca: str | None = dataclasses.field(default=None, repr=False)
    client_verify: bool = False


def single_model(name: str, base_path: str) -> Message:
    """Return the configuration of one model whose latest version is served."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=base_path, model_platform=PLATFORM
    )
    return config


def read_models(path: str | Path) -> Message:
    """Read the file for `--model_config_file`.

    An empty file configures a server without models. `logging_config` is accepted but
    ignored; the server's own log of requests is `RequestLog`.

    Args:
        path: File with a `ModelServerConfig` in text format.

    Raises:
        ValueError: If the file cannot be read, or this server cannot serve what it
            configures.
    """
    config = read_text_message(path, ModelServerConfig())
    try:
        check_models(config)
    except InvalidRequestError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def check_models(config: ModelServerConfig) -> None:
    """Check that this server can serve a configuration.

    The error messages are those of TensorFlow Serving, where it has one.

    Raises:
        InvalidRequestError: If a name or platform is missing, two models have the same
            name, a path is relative, contains a null byte or is on another machine, or
            the platform is not `tensorflow`.
    """
    if config.HasField("custom_model_config"):
        raise InvalidRequestError(
            "ModelServer does not yet support custom model config. Received: "
            "custom_model_config. Use model_config_list."
        )
    names: set[str] = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise InvalidRequestError(
                "Each model must have a name. Received: a config without a name, "
                f"base_path={model.base_path}. Add a name."
            )
        if model.name in names:
            raise InvalidRequestError(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        if re.match(r"[A-Za-z][A-Za-z0-9.+-]*://", model.base_path):
            raise InvalidRequestError(
                f"Expected model {model.name} to be in a directory of this machine; "
                f"got base_path()={model.base_path}. Copy or mount it."
            )
        if "\0" in model.base_path:
            raise InvalidRequestError(
                f"Expected model {model.name} to have a path without null bytes; got "
                f"base_path()={model.base_path!r}"
            )
        if not model.base_path.startswith("/"):
            raise InvalidRequestError(
                f"Expected model {model.name} to have an absolute path or URI; got "
                f"base_path()={model.base_path}"
            )
        _check_platform(model)


def _check_platform(model: model_server_config_pb2.ModelConfig) -> None:
    type_and_platform = (
        "ModelServerConfig::model_type (deprecated) {} "
        f"ModelServerConfig::model_platform, model name is {model.name}"
    )
    if model.model_type and model.model_platform:
        raise InvalidRequestError(
            f"Illegal setting both {type_and_platform.format('and')}"
        )
    if model.model_type == model_server_config_pb2.TENSORFLOW:
        return
    if model.model_type:
        raise InvalidRequestError(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    if not model.model_platform:
        raise InvalidRequestError(
            f"Illegal setting neither {type_and_platform.format('nor')}"
        )
    if model.model_platform != PLATFORM:
        raise InvalidRequestError(
            f"Model {model.name} requests unsupported platform {model.model_platform}"
        )


def read_batching(path: str | Path) -> BatchingParameters:
    """Read the file for `--batching_parameters_file`.

    With splitting, TensorFlow Serving requires `allowed_batch_sizes` to end with
    `max_batch_size`. Sizes above `max_execution_batch_size` are never run, and are left
    out here.

    Args:
        path: File with a `BatchingParameters` message in text format.

    Raises:
        ValueError: If the file cannot be read, the sizes contradict each other, or
            inputs of variable length are to be padded, which is not supported.
    """
    message = read_text_message(path, new_message("BatchingParameters"))
    if message.pad_variable_length_inputs:
        raise ValueError(
            f"{path}: `pad_variable_length_inputs` must be false, because this "
            "server does not pad inputs. Received: "
            "pad_variable_length_inputs=true. Send inputs of one shape."
        )
    # All fields but the list are wrapper messages; those missing in the file are not
    # listed, and keep the default.
    values = {
        field.name: value.value
        for field, value in message.ListFields()
        if field.message_type is not None
    }
    sizes = tuple(message.allowed_batch_sizes)
    if values.get("enable_large_batch_splitting"):
        largest = values.get("max_execution_batch_size", max(sizes, default=0))
        sizes = tuple(size for size in sizes if size <= largest)
    try:
        return BatchingParameters(allowed_batch_sizes=sizes, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def version_batching(
    path: Path, parameters: BatchingParameters
) -> BatchingParameters | None:
    """Return how one version is batched if each of them decides for itself.

    Args:
        path: Directory of the version.
        parameters: Parameters of the server, whose threads all versions share.

    Returns:
        The parameters in the file `batching_params.pbtxt` of the version; None without
        that file: its requests are not batched.

    Raises:
        ValueError: If the file is not valid.
    """
    file = path / "batching_params.pbtxt"
    if not file.exists():
        return None
    return dataclasses.replace(
        read_batching(file),
        num_batch_threads=parameters.num_batch_threads,
        thread_pool_name=parameters.thread_pool_name,
    )


def read_monitoring(path: str | Path) -> Monitoring:
    """Read the file for `--monitoring_config_file`.

    Args:
        path: File with a `MonitoringConfig` message in text format.

    Raises:
        ValueError: If the file cannot be read, or its path does not begin with `/`.
    """
    message = read_text_message(path, new_message("MonitoringConfig"))
    prometheus = message.prometheus_config
    if prometheus.path and not prometheus.path.startswith("/"):
        raise ValueError(
            f"{path}: `path` must begin with /. Received: path={prometheus.path!r}"
        )
    return Monitoring(prometheus.enable, prometheus.path or Monitoring.path)


def read_tls(path: str | Path) -> ServerTls:
    """Read the file for `--ssl_config_file`.

    Args:
        path: File with an `SSLConfig` message in text format.

    Raises:
        ValueError: If the file cannot be read, or lacks a PEM text. The message never
            contains the key.
    """
    message = read_text_message(path, new_message("SSLConfig"), secret=True)
    for name, required in (
        ("server_key", True),
        ("server_cert", True),
        ("custom_ca", message.client_verify or message.custom_ca),
    ):
        text = getattr(message, name)
        if required and "-----BEGIN " not in text:
            received = f"{len(text)} characters of other text" if text else "nothing"
            raise ValueError(
                f"{path}: `{name}` must be a PEM text. Received: {received}. Insert "
                "the contents of the file, not its path."
            )
    return ServerTls(
        message.server_key,
        message.server_cert,
        message.custom_ca or None,
        message.client_verify,
    )
