"""The configuration files of TensorFlow Serving.

Knows no model and no transport.
"""

from bn_keras_serving.configuration.files import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    check_models,
    one_model,
    processors,
    read_batching,
    read_models,
    read_monitoring,
    read_tls,
)

__all__ = [
    "BatchingParameters",
    "Monitoring",
    "ServerTls",
    "check_models",
    "one_model",
    "processors",
    "read_batching",
    "read_models",
    "read_monitoring",
    "read_tls",
]
