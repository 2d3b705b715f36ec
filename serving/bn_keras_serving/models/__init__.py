"""The served models: which versions are on disk, and which of them are loaded."""

from bn_keras_serving.models.registry import ModelRegistry
from bn_keras_serving.models.states import State, VersionStatus
from bn_keras_serving.models.versions import Versions

__all__ = ["ModelRegistry", "State", "VersionStatus", "Versions"]
