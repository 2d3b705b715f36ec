"""The configuration files of TensorFlow Serving."""

from bn_keras_serving.configuration.files import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    available_processors,
    check_models,
    read_batching,
    read_models,
    read_monitoring,
    read_tls,
    single_model,
    version_batching,
)
from bn_keras_serving.configuration.session_config import session_config

__all__ = [
    "BatchingParameters",
    "Monitoring",
    "ServerTls",
    "available_processors",
    "check_models",
    "read_batching",
    "read_models",
    "read_monitoring",
    "read_tls",
    "session_config",
    "single_model",
    "version_batching",
]
