"""Train a model on a data set by a recipe."""

from typing import TYPE_CHECKING

from bn_keras.lazy_names import lazy_names

if TYPE_CHECKING:
    from bn_keras.training.build_model import build, preprocessing_for
    from bn_keras.training.reestimation import PopulationStatistics
    from bn_keras.training.trainer import train

__all__ = ["PopulationStatistics", "build", "preprocessing_for", "train"]

# The help of the command line lists the recipes and must not wait for Keras.
_MODULES = {
    "PopulationStatistics": "bn_keras.training.reestimation",
    "build": "bn_keras.training.build_model",
    "preprocessing_for": "bn_keras.training.build_model",
    "train": "bn_keras.training.trainer",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
