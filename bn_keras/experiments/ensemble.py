"""Figure 4 at small scale: one crop, 144 crops, and an ensemble of six networks."""

from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from bn_keras.evaluation import wilson_interval
from bn_keras.experiments.drawing import BLACK, BLUE, ORANGE, add_caption
from bn_keras.experiments.ensemble_member import predict_member
from bn_keras.experiments.experiment import Experiment
from bn_keras.experiments.intervals import UNDECIDED, Interval, has_size, is_above
from bn_keras.experiments.parts import Part
from bn_keras.experiments.rows import Row, mean_and_range, with_interval
from bn_keras.training import recipes

# Top-1 error in %, figure 4.
FIGURE_4 = {"single crop": 25.2, "multicrop": 21.99, "ensemble": 20.1}


class EnsemblePlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    size: int  # height and width of the networks' input
    width: float  # factor of the channels
    epochs: int  # passes over the training pictures, 32 per step
    images: int  # test pictures
    crops: int  # crops of each picture, 10 or 144
    rate: float  # of BN-x30; 30 times the rate that is tuned for Inception
    members: int = len(recipes.ENSEMBLE)


PLANS = {
    "smoke": EnsemblePlan("digits", 8, 1 / 16, 1, 50, 10, 0.045, 2),
    "default": EnsemblePlan("cifar10", 16, 1 / 8, 2, 10000, 144, 0.45),
    "full": EnsemblePlan("cifar10", 32, 1 / 4, 60, 10000, 144, 0.45),
}


def _rounds(plan):
    """Train the members, and average their probabilities over crops and members.

    The measurements hold the `"errors"` and `"gains"` of `compare`.

    Reference:
        Ioffe & Szegedy 2015, section 4.2.3.
    """
    arguments = plan._asdict()
    count = arguments.pop("members")
    names = [recipe.name for recipe in recipes.ENSEMBLE[:count]]
    results = yield [
        Part(name, predict_member, {"member": name, **arguments}) for name in names
    ]
    labels = np.array(results[names[0]]["labels"])
    single, multiple = (
        np.array([results[name][kind] for name in names])
        for kind in ("single", "multiple")
    )
    return {
        "images": len(labels),
        "crops": plan.crops,
        **compare(single, multiple, labels),
    }


def compare(single: np.ndarray, multiple: np.ndarray, labels: Any) -> dict[str, Any]:
    """Compute the errors of figure 4, and the gain of each line over the one before.

    The 95% interval of a gain is that of the mean of paired differences on the same
    pictures, so that pictures which are hard for both do not widen it.

    Args:
        single: The class probabilities with one crop, `(members, images, classes)`.
        multiple: Their means over the crops, `(members, images, classes)`.
        labels: The true classes, `(images,)`.

    Returns:
        A dict. `"errors"` is a dict from `"single crop"` and `"multicrop"` to the top-1
        error of each member, and from `"ensemble"` to a list of one error. `"gains"` is
        a dict from `"multicrop"` and `"ensemble"` to `[gain, low, high]` over the line
        before, and from `"best"` to that of the ensemble over the best member's
        multicrop. `"learning"` is the number of members whose accuracy with a single
        crop is above twice chance, and `"learning gains"` are the gains if these alone
        are the members that the ensemble of all is compared with.

    Example:
    ```python
    import numpy as np
    from bn_keras.experiments.ensemble import compare

    right, wrong = [[0.9, 0.1]], [[0.4, 0.6]]
    comparison = compare(np.array([right, wrong]), np.array([right, right]), [0])
    assert comparison["errors"]["single crop"] == [0.0, 1.0]
    assert comparison["gains"]["multicrop"][0] == 0.5
    ```
    """
    # Each `(members, images)`; the ensemble averages the members' probabilities.
    wrong = {
        "single crop": single.argmax(-1) != labels,
        "multicrop": multiple.argmax(-1) != labels,
        "ensemble": multiple.mean(0, keepdims=True).argmax(-1) != labels,
    }
    best = wrong["multicrop"][wrong["multicrop"].mean(1).argmin()]
    learning = wrong["single crop"].mean(1) < 1 - 2 / single.shape[-1]
    learning_gains = {}
    if learning.any():
        learning_gains = _gains(
            {
                name: errors if name == "ensemble" else errors[learning]
                for name, errors in wrong.items()
            }
        )
    return {
        "errors": {name: errors.mean(1).tolist() for name, errors in wrong.items()},
        "gains": {
            **_gains(wrong),
            "best": _interval_over_images(best - wrong["ensemble"].mean(0)),
        },
        "learning": int(learning.sum()),
        "learning gains": learning_gains,
    }


def _gains(wrong):
    """Return the gain of each line over the one before, errors `(members, images)`."""
    means = {name: errors.mean(0) for name, errors in wrong.items()}
    return {
        after: _interval_over_images(means[before] - means[after])
        for before, after in pairwise(means)
    }


def _interval_over_images(gain):
    """Return the mean over images and its normal 95% interval."""
    half = NormalDist().inv_cdf(0.975) * gain.std(ddof=1 if gain.size > 1 else 0)
    half /= np.sqrt(gain.size)
    return [float(gain.mean() + side * half) for side in (0, -1, 1)]


def _rows(measurements):
    errors, images = measurements["errors"], measurements["images"]
    members = len(errors["single crop"])
    low, high = _interval(errors["ensemble"][0], images)
    details = {
        "single crop": f"mean and range of {members}",
        "multicrop": f"{measurements['crops']} crops, mean and range of {members}",
        "ensemble": f"of {members}, 95% interval {100 * low:.1f} to {100 * high:.1f}",
    }
    table = [
        Row(
            f"top-1 error (%), {name} ({details[name]})",
            f"{paper} (ImageNet)",
            mean_and_range(errors[name], 100),
        )
        for name, paper in FIGURE_4.items()
    ]
    single, multiple, together = FIGURE_4.values()
    n = f"{members} networks, {images:,} pictures"
    # The size of a gain over networks at chance says nothing about the paper's.
    learning = measurements["learning"]
    for name, claim, paper in (
        ("multicrop", "multicrop instead of single crop", single - multiple),
        ("ensemble", "ensemble instead of one network, multicrop", multiple - together),
        # The paper compares with one network; this is a question of our own.
        ("best", "ensemble instead of its best member, multicrop", None),
    ):
        gain = _in_points(measurements["gains"][name])
        text, size = with_interval(gain, unit=" points"), None
        if paper is not None:
            size = has_size(gain, paper) if learning == members else UNDECIDED
        if name in measurements["learning gains"] and learning < members:
            other = _in_points(measurements["learning gains"][name])
            text = (
                f"{with_interval(other, unit=' points')} over the {learning} networks "
                f"that learn; {text} over all"
            )
        table.append(
            Row(
                f"{claim}: reduction of the error (points)",
                "-" if paper is None else f"more than 0 ({paper:.1f})",
                text,
                n,
                None if paper is None else is_above(gain, 0),
                size,
                fact="" if paper is None else name,
            )
        )
    return table


def _in_points(gain):
    return Interval(*(100 * value for value in gain))


def _interval(error, images):
    return wilson_interval(round(error * images), images)


def _plot(measurements):
    """Plot the top-1 error of each line of figure 4: means, members and intervals."""
    from matplotlib.figure import Figure

    errors, images = measurements["errors"], measurements["images"]
    members = len(errors["single crop"])
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colors = (BLACK, ORANGE, BLUE)
    for place, (values, color) in enumerate(zip(errors.values(), colors, strict=True)):
        mean = float(np.mean(values))
        low, high = _interval(mean, images)
        axes.errorbar(
            place,
            100 * mean,
            [[100 * (mean - low)], [100 * (high - mean)]],
            color=color,
            marker="s",
            capsize=4,
        )
        axes.annotate(f"{100 * mean:.1f}", (place + 0.08, 100 * mean), va="center")
        if len(values) > 1:
            spread = place + np.linspace(-0.25, -0.1, len(values))
            axes.plot(spread, 100 * np.array(values), ".", color=color)
    axes.set_xticks(range(len(errors)), list(errors))
    axes.set(ylabel="top-1 error (%)", xlim=(-0.5, len(errors) - 0.5))
    axes.grid(alpha=0.3, axis="y")
    add_caption(
        figure,
        f"{members} networks, {images:,} test pictures. Squares: the mean error, with "
        "the 95% interval over the pictures. Dots: each network. The axis does not "
        "start at 0.",
    )
    return figure


def _setup(plan):
    return {
        "data": plan.data,
        "size": plan.size,
        "crops": plan.crops,
        "networks": plan.members,
        "pictures": plan.images,
        "base": "BN-x30",
    }


EXPERIMENT = Experiment(
    "ensemble",
    "Crops and an ensemble of six networks (figure 4)",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
    {
        "data": "ImageNet takes weeks of GPUs",
        "size": "fits two CPU cores",
        "pictures": "all that CIFAR-10 has",
    },
)
