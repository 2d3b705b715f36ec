"""Measure a classifier, or an ensemble of classifiers, on the images of a split."""

from bn_keras.evaluation.evaluate_model import evaluate, predict_probabilities
from bn_keras.evaluation.figures import plot_confusion
from bn_keras.evaluation.scores import ClassScore, Evaluation, wilson_interval
from bn_keras.images.crops import CROPS

__all__ = [
    "CROPS",
    "ClassScore",
    "Evaluation",
    "evaluate",
    "plot_confusion",
    "predict_probabilities",
    "wilson_interval",
]
