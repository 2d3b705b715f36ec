"""Figure 4 at small scale: one crop, 144 crops, and an ensemble of six networks."""

from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from bn_keras.evaluation import predict_probabilities, wilson_interval
from bn_keras.experiments.curves import (
    BATCH,
    halvings,
    sample,
    scale_down,
    train_or_load,
)
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.experiment import Experiment
from bn_keras.experiments.parts import Part
from bn_keras.experiments.rows import Row, mean_and_range, verdict
from bn_keras.training import preprocessing_for, recipes

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
    members: int = len(recipes.ENSEMBLE)


PLANS = {
    "smoke": EnsemblePlan("digits", 8, 1 / 16, 1, 50, 10, 2),
    "default": EnsemblePlan("cifar10", 16, 1 / 8, 2, 1000, 144),
    "full": EnsemblePlan("cifar10", 32, 1 / 4, 60, 10000, 144),
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
        Part(name, _predict_member, {"member": name, **arguments}) for name in names
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


def _predict_member(
    directories, folder, *, member, data, size, width, epochs, images, crops
):
    """Train one member; return its class probabilities with one crop and with all."""
    examples = load_data(data, directories.get(data))
    recipe = recipes.RECIPES[member]
    recipe = scale_down(
        recipe,
        size,
        width,
        epochs,
        recipe.learning_rate,
        halvings(recipe),
        recipe.seed,
    )
    test_sample = sample(examples.test, images)
    model = train_or_load(recipe, replace(examples, test=test_sample), folder)
    preprocessing = preprocessing_for(recipe, examples)
    answers = {"labels": test_sample.labels.tolist()}
    for name, count in (("single", 1), ("multiple", crops)):
        batches = predict_probabilities(model, test_sample, count, preprocessing, BATCH)
        probabilities = np.concatenate([batch for batch, _ in batches])
        answers[name] = np.round(probabilities, 6).tolist()
    return answers


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
        multicrop.

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
    z = NormalDist().inv_cdf(0.975)
    means = {name: errors.mean(0) for name, errors in wrong.items()}
    best = wrong["multicrop"][wrong["multicrop"].mean(1).argmin()]
    differences = {
        **{after: means[before] - means[after] for before, after in pairwise(means)},
        "best": best - means["ensemble"],
    }
    gains = {}
    for name, gain in differences.items():
        half = z * gain.std(ddof=1 if gain.size > 1 else 0) / np.sqrt(gain.size)
        gains[name] = [float(gain.mean() + side * half) for side in (0, -1, 1)]
    return {
        "errors": {name: errors.mean(1).tolist() for name, errors in wrong.items()},
        "gains": gains,
    }


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
    for name, claim, paper in (
        ("multicrop", "multicrop instead of single crop", single - multiple),
        ("ensemble", "ensemble instead of a member's multicrop", multiple - together),
        (
            "best",
            "ensemble instead of its best member's multicrop",
            multiple - together,
        ),
    ):
        gain, low, high = (100 * value for value in measurements["gains"][name])
        table.append(
            Row(
                f"{claim}: reduction of the error (points)",
                f"more than 0 ({paper:.1f})",
                f"{gain:.1f} (95% interval {low:.1f} to {high:.1f})",
                # Over test pictures, not over seeds: there is only one ensemble.
                verdict([low, high]),
            )
        )
    return table


def _interval(error, images):
    return wilson_interval(round(error * images), images)


def _plot(measurements):
    """Plot the top-1 error of each line of figure 4.

    A bar shows the mean, a point each network, and a line the 95% interval of the
    ensemble's error.
    """
    from matplotlib.figure import Figure

    errors = measurements["errors"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for place, values in enumerate(errors.values()):
        mean = np.mean(100 * np.array(values))
        bar = axes.bar(place, mean, width=0.6, alpha=0.6)
        axes.bar_label(bar, fmt="%.1f", label_type="center")
        if len(values) > 1:
            axes.plot(
                np.linspace(place - 0.15, place + 0.15, len(values)),
                100 * np.array(values),
                "k.",
            )
        else:
            low, high = _interval(values[0], measurements["images"])
            axes.errorbar(
                place,
                mean,
                [[mean - 100 * low], [100 * high - mean]],
                color="black",
                capsize=4,
            )
    axes.set_xticks(range(len(errors)), list(errors))
    members, images = len(errors["single crop"]), measurements["images"]
    axes.set(
        ylabel="top-1 error (%)",
        title=f"{members} networks, {images:,} test pictures",
    )
    axes.margins(y=0.2)
    return figure


EXPERIMENT = Experiment(
    "ensemble",
    "Crops and an ensemble of six networks (figure 4)",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
