"""Train a model on a data set by a recipe."""

from bn_keras.training.building import build, preprocessing_for
from bn_keras.training.trainer import train

__all__ = ["build", "preprocessing_for", "train"]
