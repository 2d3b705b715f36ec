"""What the two papers say that can be measured: each sentence with its set-up."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """A claim of a paper.

    Args:
        experiment: The experiment that measures it.
        where: The paper, `"BN"` (Ioffe & Szegedy 2015) or `"LS"` (Santurkar et al.
            2018), with section and figure.
        sentence: What the paper says, in its own words where they are short.
        number: The paper's number, or None.
        setup: The paper's set-up, as far as the paper states it. Each entry equals
            that of the experiment's plan, or the experiment names the difference.
    """

    experiment: str
    where: str
    sentence: str
    number: float | None
    setup: Mapping[str, Any]


_MNIST = {
    "data": "mnist",
    "hidden units": "3 x 100 sigmoid",
    "batch": 60,
    "steps": 50_000,
}
# Learning rate, initial deviation and optimizer are not stated in section 4.1; the
# network of section 2 is not stated at all.
_IMAGENET = {
    "data": "imagenet",
    "size": 224,
    "width": 1,
    "batch": 32,
    "training": "asynchronous, many replicas",
    "base rate": "tuned for Inception",
    "multiples of the rate": "1, 5, 30",
}
_ENSEMBLE = {
    "data": "imagenet",
    "size": 224,
    "crops": 144,
    "networks": 6,
    "pictures": 50_000,
    "base": "BN-x30",
}
_VGG = {
    "data": "cifar10",
    "augmentation": "none",
    "initialization": "Glorot",
    "batch": 128,
    "rate": 0.1,
    "steps": 15_000,
    "convolutions": 13,
    "width": 1,
}
_LANDSCAPE = {**_VGG, "probed steps": "0.5 to 4 x rate"}
_SHIFT = {**_VGG, "layers": [5, 10]}
_NOISE = {**_VGG, "noise": "mu 0.5, sigma 1.25, r 0.1", "layers": [2, 9, 13]}
_FIGURE_1 = {**_VGG, "other rate": 0.5}
_NORMS = (("l1", "L1"), ("l2", "L2"), ("linf", "L-infinity"))
_LINEAR = {
    "data": "Gaussian inputs and matrix",
    "matrix": "10 x 10",
    "layers": 25,
    "examples": 1000,
    "loss": "sum of squares over outputs and examples",
    "initialization": "Glorot",
    "batch": "all examples",
    "rate": 1e-6,
    "steps": 10_000,
    "probed steps": "0.01 to 30 x rate",
}
_LOW = {**_LINEAR, "other rate": 1e-7}

FACTS = {
    # Ioffe & Szegedy 2015
    "section2-bias": Fact(
        "section2",
        "BN, section 2",
        "b will grow indefinitely while the loss remains fixed",
        None,
        {},
    ),
    "section2-worse": Fact(
        "section2",
        "BN, section 2",
        "this can get worse if the normalization also scales the activations",
        None,
        {},
    ),
    "section2-blow-up": Fact(
        "section2",
        "BN, section 2",
        "the model blows up when the normalization parameters are computed outside "
        "the gradient descent step",
        None,
        {},
    ),
    "rates": Fact(
        "mnist-sweep",
        "BN, sections 1 and 3.3",
        "BN allows us to use much higher learning rates",
        None,
        {},
    ),
    "initialization": Fact(
        "mnist-sweep",
        "BN, sections 1 and 3.3",
        "and be less careful about initialization",
        None,
        {},
    ),
    "dropout": Fact(
        "regularization",
        "BN, section 3.4",
        "dropout can be either removed or reduced in strength",
        None,
        {},
    ),
    "mnist-faster": Fact(
        "mnist", "BN, figure 1a", "BN helps the network train faster", None, _MNIST
    ),
    "mnist-higher": Fact(
        "mnist", "BN, figure 1a", "and achieve higher accuracy", None, _MNIST
    ),
    "mnist-stable": Fact(
        "mnist",
        "BN, figure 1b, c",
        "BN makes the distribution more stable",
        None,
        _MNIST,
    ),
    "bn-baseline-faster": Fact(
        "inception",
        "BN, figures 2 and 3",
        "by only using BN, fewer steps (less than half)",
        31.0 / 13.3,
        _IMAGENET,
    ),
    "bn-x5-faster": Fact(
        "inception",
        "BN, figures 2 and 3",
        "BN-x5 needs 14 times fewer steps than Inception",
        31.0 / 2.1,
        _IMAGENET,
    ),
    "bn-x30-faster": Fact(
        "inception",
        "BN, figures 2 and 3",
        "BN-x30 reaches 72.2% in 2.7 of 31.0 million steps",
        31.0 / 2.7,
        _IMAGENET,
    ),
    "bn-x30-slower": Fact(
        "inception",
        "BN, section 4.2.2",
        "BN-x30 trains somewhat slower initially",
        2.7 / 2.1,
        _IMAGENET,
    ),
    "bn-x30-best": Fact(
        "inception",
        "BN, section 4.2.2",
        "but reaches a higher final accuracy",
        74.8 - 73.0,
        _IMAGENET,
    ),
    "sigmoid-learns": Fact(
        "inception",
        "BN, section 4.2.2",
        "BN-x5-Sigmoid learns (69.8%; Inception: 72.2%)",
        69.8 - 72.2,
        _IMAGENET,
    ),
    "sigmoid-chance": Fact(
        "inception",
        "BN, section 4.2.2",
        "Inception with sigmoid remained at chance",
        None,
        _IMAGENET,
    ),
    "inception-x5-diverges": Fact(
        "inception",
        "BN, section 4.2.2",
        "with five times the rate the parameters reached machine infinity",
        None,
        _IMAGENET,
    ),
    "multicrop": Fact(
        "ensemble",
        "BN, figure 4",
        "top-1 error 25.2% with one crop, 21.99% with 144",
        25.2 - 21.99,
        _ENSEMBLE,
    ),
    "ensemble": Fact(
        "ensemble",
        "BN, figure 4",
        "top-1 error 21.99% of one network, 20.1% of six",
        21.99 - 20.1,
        _ENSEMBLE,
    ),
    # Santurkar et al. 2018
    "vgg-trains": Fact(
        "vgg",
        "LS, figure 1a",
        "a consistent gain in training speed in models with BN, rate 0.1",
        None,
        _FIGURE_1,
    ),
    "vgg-trains-high": Fact(
        "vgg",
        "LS, figure 1a",
        "a consistent gain in training speed in models with BN, rate 0.5",
        None,
        _FIGURE_1,
    ),
    "vgg-chance": Fact(
        "vgg",
        "LS, figure 1a",
        "at the rate 0.5 the network without BN stays at chance",
        None,
        _FIGURE_1,
    ),
    "vgg-test": Fact(
        "vgg",
        "LS, figure 1b and appendix A",
        "a higher test accuracy with BN (83%) than without (80%)",
        83.0 - 80.0,
        _FIGURE_1,
    ),
    "vgg-rates": Fact(
        "vgg-sweep",
        "LS, section 3.1",
        "BN enables us to use a broader range of (and thus larger) learning rates",
        None,
        {},
    ),
    "vgg-initialization": Fact(
        "vgg-sweep",
        "LS, section 3",
        "robustness to different settings of hyperparameters such as the "
        "initialization scheme",
        None,
        {},
    ),
    "noisy-similar": Fact(
        "noise",
        "LS, figure 2",
        "the difference between BN and noisy BN is almost non-existent",
        None,
        _NOISE,
    ),
    "noisy-better": Fact(
        "noise",
        "LS, section 2.1",
        "both perform much better than standard networks",
        None,
        _NOISE,
    ),
    "noisy-unstable": Fact(
        "noise",
        "LS, figure 8a",
        "noisy BN has less stable distributions than even the standard network",
        None,
        _NOISE,
    ),
    "noise-fails": Fact(
        "noise",
        "LS, section 2.1",
        "the same noise without BN prevents the network from training entirely",
        None,
        _NOISE,
    ),
    **{
        f"vgg-{name}": Fact(
            "noise",
            "LS, figure 5a",
            f"{label} normalization performs comparably to BN",
            None,
            _VGG,
        )
        for name, label in _NORMS
    },
    "vgg-loss": Fact(
        "landscape",
        "LS, figure 4a",
        "the loss varies less along the gradient with BN",
        None,
        _LANDSCAPE,
    ),
    "vgg-gradient": Fact(
        "landscape",
        "LS, figure 4b",
        "gradients are more predictive with BN",
        None,
        _LANDSCAPE,
    ),
    "vgg-beta": Fact(
        "landscape",
        "LS, figure 4c",
        "effective beta-smoothness is better with BN",
        None,
        _LANDSCAPE,
    ),
    **{
        f"vgg-{key}": Fact(
            "landscape",
            "LS, figure 3a",
            f"covariate shift similar, or even worse, with BN: {what}",
            None,
            _SHIFT,
        )
        for key, what in (("shift", "L2 difference"), ("cosine", "cosine"))
    },
    "dln-loss": Fact(
        "deep-linear",
        "LS, figure 10a",
        "deep linear network: the loss varies less with BN",
        None,
        _LINEAR,
    ),
    "dln-gradient": Fact(
        "deep-linear",
        "LS, figure 10b",
        "deep linear network: gradients are more predictive with BN",
        None,
        _LINEAR,
    ),
    "dln-beta": Fact(
        "deep-linear",
        "LS, figure 10c",
        "deep linear network: beta-smoothness is better with BN",
        None,
        _LINEAR,
    ),
    "dln-trains": Fact(
        "deep-linear",
        "LS, figure 3b",
        "with BN the loss is lower (drastically)",
        None,
        _LINEAR,
    ),
    **{
        f"dln-{key}{suffix}": Fact(
            "deep-linear",
            "LS, figure 3b",
            f"{sentence}, rate {rate}",
            None,
            _LOW if suffix else _LINEAR,
        )
        for suffix, rate in (("", "1e-6"), ("-low", "1e-7"))
        for key, sentence in (
            ("shift", "BN increases the covariate shift"),
            ("cosine-none", "the standard network has almost none"),
            ("cosine-bn", "with BN G and G' are almost uncorrelated"),
        )
    },
    "dln-l1": Fact(
        "deep-linear",
        "LS, figure 5b",
        "for deep linear networks, L1 performs even better than BN",
        None,
        _LINEAR,
    ),
    **{
        f"dln-{name}-{key}": Fact(
            "deep-linear",
            f"LS, figure 13{panel}",
            f"{label} normalization improves {what} over standard training",
            None,
            _LINEAR,
        )
        for name, label in _NORMS
        for key, panel, what in (
            ("trains", "a", "the training loss"),
            ("smooth", "d", "beta-smoothness"),
        )
    },
    "theorem": Fact(
        "theorem",
        "LS, theorem 4.1",
        "the squared gradient with BN is at most gamma^2/sigma^2 times that without, "
        "less two squares",
        None,
        {},
    ),
}
