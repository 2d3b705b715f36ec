"""The descriptors of TensorFlow Serving's messages, from the installed packages.

`python tests/support/serving_descriptors.py` writes the file that the client reads.
Run it after an update of tensorflow-serving-api.
"""

from google.protobuf import descriptor_pb2
from paths import ROOT

DESCRIPTORS = ROOT / "serving/bn_keras_serving/common/tensorflow_serving.binpb"


def descriptor_set():
    """The services' files and all that they import, each after its imports."""
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

    files = {}

    def add(file):
        for dependency in file.dependencies:
            add(dependency)
        files.setdefault(file.name, file)

    add(prediction_service_pb2.DESCRIPTOR)
    add(model_service_pb2.DESCRIPTOR)
    descriptors = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(descriptors.file.add())
    return descriptors


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(descriptor_set().SerializeToString(deterministic=True))
