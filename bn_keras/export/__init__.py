"""Export a model as a version that TensorFlow Serving can load."""

from bn_keras.export.export_model import export_saved_model
from bn_keras.export.publishing import highest_version, versions
from bn_keras.export.server_files import read_manifest, write_server_files

__all__ = [
    "export_saved_model",
    "highest_version",
    "read_manifest",
    "versions",
    "write_server_files",
]
