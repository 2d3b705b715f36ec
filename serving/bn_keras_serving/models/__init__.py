"""Models by name, and which of their versions on disk are served.

Knows neither what a loaded version is nor any transport.
"""

from bn_keras_serving.models.registry import Models
from bn_keras_serving.models.versions import State, Versions, VersionStatus

__all__ = ["Models", "State", "VersionStatus", "Versions"]
