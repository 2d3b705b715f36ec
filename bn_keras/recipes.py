"""Training recipes: frozen facts, each variant a `replace` of another.

Knows numbers and names; not how to build a model or to train one.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """What a training run needs to know beside its data.

    Args:
        name: the recipe's name on the command line.
        model: name of the builder in `bn_keras.models`.
        batch_normalization: whether the model is built with it.
        learning_rate: of plain stochastic gradient descent.
        batch_size: examples a step.
        epochs: passes over the training set.
        bn_momentum: of the moving averages that measure a run while it trains; the
            population estimate replaces them at its end.
        seed: of the initial weights and the order of examples.
    """

    name: str
    model: str
    batch_normalization: bool
    learning_rate: float
    batch_size: int
    epochs: int
    bn_momentum: float = 0.9
    seed: int = 0


# Ioffe & Szegedy 2015, section 4.1: 3 x 100 sigmoid units, batches of 60. The paper
# states neither the learning rate nor the initial deviation; 0.5 is chosen here.
MLP = Recipe(
    name="mlp",
    model="MLP",
    batch_normalization=False,
    learning_rate=0.5,
    batch_size=60,
    epochs=60,
)
BN_MLP = replace(MLP, name="bn-mlp", batch_normalization=True)
CONVNET = replace(MLP, name="convnet", model="ConvNet", learning_rate=0.1, epochs=10)
BN_CONVNET = replace(CONVNET, name="bn-convnet", batch_normalization=True)

RECIPES = {recipe.name: recipe for recipe in (MLP, BN_MLP, CONVNET, BN_CONVNET)}
