"""The served models: which versions are on disk, and which of them are loaded."""

from bn_keras_serving.models.registry import ModelRegistry
from bn_keras_serving.models.versions import State, Versions, VersionStatus

__all__ = ["ModelRegistry", "State", "VersionStatus", "Versions"]
