"""The experiments by name."""

import importlib
from typing import TYPE_CHECKING, Any

# The help of the command line lists these names and must not wait for Keras.
if TYPE_CHECKING:
    from bn_keras.experiments.experiment import Experiment

# In the order of the report.
EXPERIMENTS = (
    "mnist",
    "mnist-sweep",
    "inception",
    "ensemble",
    "vgg",
    "vgg-sweep",
    "landscape",
    "deep-linear",
    "noise",
    "theorem",
    "section2",
    "domain",
    "depth",
    "population-statistics",
    "batch-size",
    "regularization",
)
SCALES = {
    "smoke": "one or two minutes on the bundled digits; checks that everything runs, "
    "the results mean nothing",
    "default": "minutes to hours on two cores; smaller than in the papers",
    "full": "days; up to the sizes of the papers",
}
# The default folder of the results.
WORKDIR = "bn-keras-reproduce"


def load_experiment(name: str) -> "Experiment[Any]":
    """Import the experiment of that name.

    Args:
        name: One of `EXPERIMENTS`.

    Returns:
        Its `bn_keras.experiments.experiment.Experiment`.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"`name` must be one of {', '.join(EXPERIMENTS)}. Received: name={name!r}"
        )
    module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    return module.EXPERIMENT
