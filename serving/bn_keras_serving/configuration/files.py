"""Read and check the configuration files of TensorFlow Serving.

Knows no model, no disk but these files, and no transport.
"""

import dataclasses
import os
import re
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.configuration.text_messages import new_message, read_text_message

PLATFORM = "tensorflow"


def processors() -> int:
    """Count those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are gathered; the defaults are those of the real server.

    Attributes:
        max_batch_size: Examples that a request, and without splitting a batch, may
            have.
        batch_timeout_micros: Longest wait for a batch to fill, in microseconds.
        max_enqueued_batches: Batches that may wait, for each signature.
        num_batch_threads: Batches run at a time, of all signatures together.
        thread_pool_name: Name of these threads.
        allowed_batch_sizes: Sizes that a batch is padded to; without any it is not.
        enable_large_batch_splitting: Whether a large request is run in parts.
        max_execution_batch_size: Size of the parts; None for `max_batch_size`.

    Raises:
        ValueError: A number is too small, or the allowed sizes do not grow to the
            largest size that is run.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=processors)
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self):
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
            ("max_execution_batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"`{name}` must be {least} or more. Received: {name}={value}"
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
                "`allowed_batch_sizes` must be positive and increasing, the last equal "
                f"to `{name}`. Received: allowed_batch_sizes={sizes}, {name}={largest}"
            )


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Whether Prometheus may read metrics, and under which path of the REST port."""

    enable: bool = False
    path: str = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class ServerTls:
    """Keys and certificates for gRPC, as PEM texts.

    Attributes:
        server_key: Private key of the server.
        server_cert: Its certificate.
        custom_ca: Certificates that clients' certificates are checked with.
        client_verify: Whether clients must have a certificate.
    """

    server_key: str = dataclasses.field(repr=False)
    server_cert: str = dataclasses.field(repr=False)
    custom_ca: str | None = dataclasses.field(default=None, repr=False)
    client_verify: bool = False


def one_model(name: str, base_path: str) -> ModelServerConfig:
    """Configure one model, whose latest version is served."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=base_path, model_platform=PLATFORM
    )
    return config


def read_models(path: str | Path) -> ModelServerConfig:
    """Read a file of `--model_config_file`.

    An empty file is a server without models. `logging_config` is accepted; the
    requests it asks for are not logged.

    Args:
        path: A `ModelServerConfig` in text form.

    Raises:
        ValueError: It cannot be read, or this server cannot serve what it asks for.
    """
    config = read_text_message(path, ModelServerConfig())
    try:
        check_models(config)
    except InvalidRequestError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def check_models(config: ModelServerConfig) -> None:
    """Refuse what this server cannot serve, with the words of the real one.

    Raises:
        InvalidRequestError: A name or platform is missing, a name is there twice, a
            path is not absolute or not of this machine, or the platform is not
            `tensorflow`.
    """
    if config.HasField("custom_model_config"):
        raise InvalidRequestError(
            "ModelServer does not yet support custom model config. Received: "
            "custom_model_config; use model_config_list."
        )
    names = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise InvalidRequestError(
                "Expected each model to have a name. Received: a config without one, "
                f"base_path={model.base_path}; name it."
            )
        if model.name in names:
            raise InvalidRequestError(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        if re.match(r"[A-Za-z][A-Za-z0-9.+-]*://", model.base_path):
            raise InvalidRequestError(
                f"Expected model {model.name} to be in a directory of this machine; "
                f"got base_path()={model.base_path}; copy or mount it."
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
    """Read a file of `--batching_parameters_file`.

    With splitting, the real server wants `allowed_batch_sizes` to end with
    `max_batch_size`; what is larger than `max_execution_batch_size` is never run, and
    left out here.

    Args:
        path: A `BatchingParameters` in text form.

    Raises:
        ValueError: It cannot be read, sizes do not fit one another, or variable-length
            inputs are to be padded, which this server does not.
    """
    read = read_text_message(path, new_message("BatchingParameters"))
    if read.pad_variable_length_inputs:
        raise ValueError(
            f"{path}: `pad_variable_length_inputs` must be false: inputs of unlike "
            "shapes are not batched here. Received: pad_variable_length_inputs=true; "
            "send inputs of one shape"
        )
    # Wrapped values that are not in the file leave the default.
    values = {
        field.name: value.value
        for field, value in read.ListFields()
        if field.message_type is not None
    }
    sizes = tuple(read.allowed_batch_sizes)
    if values.get("enable_large_batch_splitting"):
        largest = values.get("max_execution_batch_size", max(sizes, default=0))
        sizes = tuple(size for size in sizes if size <= largest)
    try:
        return BatchingParameters(allowed_batch_sizes=sizes, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_monitoring(path: str | Path) -> Monitoring:
    """Read a file of `--monitoring_config_file`, a `MonitoringConfig` in text form.

    Raises:
        ValueError: It cannot be read, or its path does not begin with `/`.
    """
    read = read_text_message(path, new_message("MonitoringConfig")).prometheus_config
    if read.path and not read.path.startswith("/"):
        raise ValueError(
            f"{path}: `path` must begin with /. Received: path={read.path!r}"
        )
    return Monitoring(read.enable, read.path or Monitoring.path)


def read_tls(path: str | Path) -> ServerTls:
    """Read a file of `--ssl_config_file`, an `SSLConfig` in text form.

    Raises:
        ValueError: It cannot be read, or lacks a PEM text. The key is in no message.
    """
    read = read_text_message(path, new_message("SSLConfig"), secret=True)
    for name, wanted in (
        ("server_key", True),
        ("server_cert", True),
        ("custom_ca", read.client_verify or read.custom_ca),
    ):
        text = getattr(read, name)
        if wanted and "-----BEGIN " not in text:
            found = f"{len(text)} characters of something else" if text else "nothing"
            raise ValueError(
                f"{path}: `{name}` must be a PEM text. Received: {found}; put the "
                "contents of the file there, not its path"
            )
    return ServerTls(
        read.server_key, read.server_cert, read.custom_ca or None, read.client_verify
    )
