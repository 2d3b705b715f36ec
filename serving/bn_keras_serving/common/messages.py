"""The messages of TensorFlow Serving's protocol, for processes without TensorFlow."""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor

# A serialized `FileDescriptorSet`: the compiled .proto files of TensorFlow Serving and
# those they import. `tests/support/serving_descriptors.py` writes it.
DESCRIPTORS = Path(__file__).with_name("tensorflow_serving.binpb")


DEFAULT_SIGNATURE = "serving_default"  # if a request names none


def _load_pool() -> descriptor_pool.DescriptorPool:
    # A pool of our own: protobuf's default pool would reject these files when
    # TensorFlow, imported before or after, registers its own under the same names.
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in files.file:  # each file follows those that it imports
        pool.Add(file)
    return pool


_POOL = _load_pool()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _values(enum: str) -> dict[str, int]:
    values = _POOL.FindEnumTypeByName(enum).values
    return {value.name: value.number for value in values}


Example = _message("tensorflow.Example")
TensorProto = _message("tensorflow.TensorProto")
ClassificationRequest = _message("tensorflow.serving.ClassificationRequest")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
Input = _message("tensorflow.serving.Input")
ModelSpec = _message("tensorflow.serving.ModelSpec")
PredictRequest = _message("tensorflow.serving.PredictRequest")
RegressionRequest = _message("tensorflow.serving.RegressionRequest")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")

# Name of each element type, such as `DT_FLOAT`, to its number.
DATA_TYPES = _values("tensorflow.DataType")
# Number of each state of a version to its name, such as `AVAILABLE`.
VERSION_STATES = {
    number: name
    for name, number in _values("tensorflow.serving.ModelVersionStatus.State").items()
}

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    _POOL.FindServiceByName(f"tensorflow.serving.{name}")
    for name in ("PredictionService", "ModelService")
)


def message_class(descriptor: Any) -> Any:
    """Return the class of a message type of these files."""
    return message_factory.GetMessageClass(descriptor)
