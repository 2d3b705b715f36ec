"""Population statistics of a trained model, estimated over many mini-batches."""

from bn_keras.population.estimation import METHODS, estimate_population_statistics
from bn_keras.population.movement import Movement

__all__ = ["METHODS", "Movement", "estimate_population_statistics"]
