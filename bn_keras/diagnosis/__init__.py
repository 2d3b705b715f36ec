"""What is wrong with the batch normalization of a model."""

from bn_keras.diagnosis.diagnose import diagnose
from bn_keras.diagnosis.report import Diagnosis, Finding, LayerState, Outcome

__all__ = ["Diagnosis", "Finding", "LayerState", "Outcome", "diagnose"]
