"""Messages in protobuf's text format, including those missing from the Python API."""

import re
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

# Message name to fields as (name, number, type), for messages that the package
# tensorflow-serving-api lacks. Sources: session_bundle_config.proto,
# monitoring_config.proto and ssl_config.proto of tensorflow/serving.
_MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", 1, "Int64Value"),
        ("batch_timeout_micros", 2, "Int64Value"),
        ("max_enqueued_batches", 3, "Int64Value"),
        ("num_batch_threads", 4, "Int64Value"),
        ("thread_pool_name", 5, "StringValue"),
        ("allowed_batch_sizes", 6, "INT64*"),
        ("pad_variable_length_inputs", 7, "BOOL"),
        ("enable_large_batch_splitting", 8, "BoolValue"),
        ("max_execution_batch_size", 9, "Int64Value"),
    ],
    "PrometheusConfig": [("enable", 1, "BOOL"), ("path", 2, "STRING")],
    "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
    "SSLConfig": [
        ("server_key", 1, "STRING"),
        ("server_cert", 2, "STRING"),
        ("custom_ca", 3, "STRING"),
        ("client_verify", 4, "BOOL"),
    ],
}

AnyMessage = TypeVar("AnyMessage", bound=Message)


def new_message(name: str) -> Any:
    """Return an empty message of one of the types in `_MESSAGES`."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, label=1)
            if kind.endswith("*"):
                field.label = field_type.LABEL_REPEATED
            if hasattr(field_type, f"TYPE_{kind.rstrip('*')}"):
                field.type = getattr(field_type, f"TYPE_{kind.rstrip('*')}")
            else:
                package = file.package if kind in _MESSAGES else "google.protobuf"
                field.type = field_type.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    # A private pool: another package may add the real definitions to the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{file.package}.{name}")
    )()


def read_text_message(
    path: str | Path, message: AnyMessage, secret: bool = False
) -> AnyMessage:
    """Read a file into an empty message.

    Args:
        path: A file in UTF-8.
        message: The message to fill.
        secret: Whether error messages must not quote the file.

    Returns:
        The same message.

    Raises:
        ValueError: If the file cannot be read or does not contain such a message.
    """
    expected = f"{path} must be a {message.DESCRIPTOR.name} in text format."
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{expected} Received: {error.strerror}. Correct the path."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(
            f"{expected} Received: a file that is not in UTF-8. Correct the path."
        ) from None
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        problem = re.sub(r"^\d+:\d+ : ", "", " ".join(str(error).split())).rstrip(".")
        if secret:
            problem = "an error that is not shown, since it might quote the key"
        position = f"{error.GetLine() or 1}:{error.GetColumn() or 1}"
        # The text is TensorFlow Serving's: the line that protobuf logs there, followed
        # by the server's own. `from None`, since the parser's own error quotes the line
        # in its traceback.
        raise ValueError(
            f"Error parsing text-format {message.DESCRIPTOR.full_name}: {position}: "
            f"{problem}. Invalid protobuf file: '{path}'"
        ) from None
