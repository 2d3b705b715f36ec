"""Training recipes: frozen facts, each variant a `replace` of another.

Knows numbers and names; not how to build a model or to train one.
"""

from dataclasses import dataclass, replace

from bn_keras.images.preprocessing import Augmentation, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run needs to know beside its data.

    None for a fact of the network stands for the builder's own default.

    Args:
        name: the recipe's name on the command line.
        model: name of the builder in `bn_keras.models`.
        batch_normalization: whether the model is built with it.
        learning_rate: of stochastic gradient descent, at the first step.
        batch_size: examples a step, over all devices.
        epochs: passes over the training set.
        momentum: of the gradient descent.
        decay: the learning rate is multiplied by this each `decay_epochs`, smoothly.
        decay_epochs: epochs to one such decay.
        l2: weight of the sum of squares of all kernels in the loss.
        clip_norm: largest norm of the gradient of all weights; None: not clipped.
        activation: the network's nonlinearity.
        dropout: share of the features dropped before the classifier.
        local_response_normalization: whether it is there.
        width: multiplies the channels.
        stem: `"imagenet"` or `"small"`; None: by the size of the images.
        initial_scale: factor of the standard deviation of the initial convolution
            kernels.
        per_activation: whether the last hidden layers, those of module 5b, normalize
            each activation for itself instead of each feature map.
        bn_momentum: of the moving averages that measure a run while it trains; the
            population estimate replaces them at its end.
        population_batches: training mini-batches of that estimate; None: an epoch.
        synchronized: whether replicas share the statistics of a mini-batch.
        within_shards: whether examples are shuffled within shards too.
        preprocessing: how a picture becomes an input; its size None: the size of the
            data set's pictures, or 224 x 224 where they have several.
        distortion: random crops, mirrors, colours while training; None: none.
        dtype: Keras' dtype policy, such as `"mixed_bfloat16"`.
        seed: of the initial weights, the order of examples and their distortions.
    """

    name: str
    model: str
    batch_normalization: bool
    learning_rate: float
    batch_size: int
    epochs: int
    momentum: float = 0.0
    decay: float = 1.0
    decay_epochs: float = 1.0
    l2: float = 0.0
    clip_norm: float | None = None
    activation: str | None = None
    dropout: float | None = None
    local_response_normalization: bool | None = None
    width: float | None = None
    stem: str | None = None
    initial_scale: float = 1.0
    per_activation: bool = False
    bn_momentum: float = 0.9
    population_batches: int | None = None
    synchronized: bool = False
    within_shards: bool = True
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009 (it is frozen)
    distortion: Augmentation | None = None
    dtype: str = "float32"
    seed: int = 0

    def scaled(self, batch_size: int) -> "Recipe":
        """The recipe at another batch size, the learning rate growing with it.

        Args:
            batch_size: examples a step.

        Returns:
            A `Recipe`.

        Example:
        ```python
        from bn_keras.training.recipes import BN_X5

        assert BN_X5.scaled(256).learning_rate == 8 * BN_X5.learning_rate
        ```

        Reference:
            Goyal et al. 2017, "Accurate, Large Minibatch SGD", the linear scaling rule.
        """
        rate = self.learning_rate * batch_size / self.batch_size
        return replace(self, batch_size=batch_size, learning_rate=rate)


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

# Section 4.2: stated are the learning rates, batches of 32, momentum (not how much),
# 40 % dropout, LRN, and what the variants change. Chosen:
# - momentum 0.9: every published recipe that reached 71 % or more;
# - 4 % less learning rate each 8 epochs: Szegedy et al. 2014, section 6;
# - L2 2e-4, a fifth of which is the 4e-5 of Google's later models; the sum of squares
#   without the factor 1/2;
# - crops of 8 to 100 % of the area, 3/4 to 4/3: Szegedy et al. 2014; colours as in
#   Howard 2013, which that paper cites, half as strong where BN's paper says "less";
# - epochs from figure 3: steps to 72.2 % (31.0 and 13.3 million), and the 6 million
#   steps after which BN-x30 is best for all others;
# - pixels from -1 to 1, and single crops of 224 from 256 pixels.
INCEPTION = Recipe(
    name="inception",
    model="Inception",
    batch_normalization=False,
    learning_rate=0.0015,
    batch_size=32,
    epochs=774,
    momentum=0.9,
    decay=0.96,
    decay_epochs=8,
    l2=2e-4,
    activation="relu",
    dropout=0.4,
    local_response_normalization=True,
    bn_momentum=0.99,
    population_batches=1000,
    within_shards=False,
    preprocessing=Preprocessing(scale=1 / 127.5, offset=-1.0, crop_fraction=0.875),
    distortion=Augmentation(),
)
BN_BASELINE = replace(
    INCEPTION, name="bn-baseline", batch_normalization=True, epochs=332
)
BN_X5 = replace(
    BN_BASELINE,
    name="bn-x5",
    learning_rate=5 * INCEPTION.learning_rate,
    dropout=0.0,
    within_shards=True,
    l2=INCEPTION.l2 / 5,
    decay_epochs=INCEPTION.decay_epochs / 6,
    local_response_normalization=False,
    distortion=Augmentation(photometric=0.5),
    epochs=150,
)
BN_X30 = replace(BN_X5, name="bn-x30", learning_rate=30 * INCEPTION.learning_rate)
BN_X5_SIGMOID = replace(BN_X5, name="bn-x5-sigmoid", activation="sigmoid")

# What the section says does not work.
INCEPTION_X5 = replace(
    INCEPTION, name="inception-x5", learning_rate=5 * INCEPTION.learning_rate
)
INCEPTION_SIGMOID = replace(INCEPTION, name="inception-sigmoid", activation="sigmoid")

# Section 4.2.3: six networks, each with some of larger initial weights, 5 or 10 %
# dropout, and per-activation BN in the last hidden layers. Which has which is chosen.
ENSEMBLE = (
    replace(BN_X30, name="ensemble-1", initial_scale=1.5, seed=1),
    replace(BN_X30, name="ensemble-2", dropout=0.05, seed=2),
    replace(BN_X30, name="ensemble-3", dropout=0.1, seed=3),
    replace(BN_X30, name="ensemble-4", per_activation=True, seed=4),
    replace(BN_X30, name="ensemble-5", initial_scale=1.5, dropout=0.05, seed=5),
    replace(BN_X30, name="ensemble-6", per_activation=True, dropout=0.1, seed=6),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(MLP, BN_MLP, CONVNET, BN_CONVNET),
        *(INCEPTION, BN_BASELINE, BN_X5, BN_X30, BN_X5_SIGMOID),
        *(INCEPTION_X5, INCEPTION_SIGMOID),
        *ENSEMBLE,
    )
}
