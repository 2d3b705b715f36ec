"""Fold batch normalization into the neighboring linear layers, for inference."""

from bn_keras.folding.fold_model import FoldingResult, fold_batch_normalization
from bn_keras.folding.report import Entry, Report
from bn_keras.layer.scale_shift import ScaleShift

__all__ = [
    "Entry",
    "FoldingResult",
    "Report",
    "ScaleShift",
    "fold_batch_normalization",
]
