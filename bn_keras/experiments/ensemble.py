"""Figure 4 at small scale: one crop, 144 crops, an ensemble of six networks.

Knows errors and their intervals; not how a model is trained or a crop is cut.
"""

from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bn_keras.evaluation import predict_probabilities, wilson_interval
from bn_keras.experiments.curves import (
    BATCH,
    halvings,
    sample,
    scaled_down,
    trained,
)
from bn_keras.experiments.parts import Part, check_scale, load_data, measure
from bn_keras.experiments.rows import Row, spread, verdict
from bn_keras.training import preprocessing_for, recipes

TITLE = "Crops and an ensemble of six (figure 4)"

REMARK = """\
Smaller than the paper's: CIFAR-10 instead of ImageNet, a narrow network with a small
stem, few epochs. Learning rates decay over these as figure 2's. The six networks are
those of `bn_keras.training.recipes`: BN-x30, each with some of the paper's changes;
which has which is chosen. With ten classes top-5 errors say nothing and are left out.
The ensemble is held against the mean of its members and, harder, against the best of them
on the same pictures, which chance has favoured. The 95 % of a gain are over test
pictures, for these six trainings: it agrees where they are above 0.\
"""
OUTCOME = """\
Many crops and the ensemble lower the mean error, by about as many points as in the
paper, of an error twice as large. The ensemble is not better than its best member:
after so few steps the members lie six points apart, and the weaker ones have the same
say.\
"""

# Top-1 error in %, figure 4.
FIGURE_4 = {"single crop": 25.2, "multicrop": 21.99, "ensemble": 20.1}


class Plan(NamedTuple):
    """The sizes of a run.

    Args:
        data: name of the data set.
        size: height and width of the networks' input.
        width: multiplies the channels.
        epochs: passes of 32 examples a step over the training pictures.
        images: test pictures.
        crops: of each picture, 10 or 144.
        members: networks, of the paper's six.
    """

    data: str
    size: int
    width: float
    epochs: int
    images: int
    crops: int
    members: int = len(recipes.ENSEMBLE)


PLANS = {
    "smoke": Plan("digits", 8, 1 / 16, 1, 50, 10, 2),
    "default": Plan("cifar10", 16, 1 / 8, 2, 1000, 144),
    "full": Plan("cifar10", 32, 1 / 4, 60, 10000, 144),
}


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train the members, average their answers over crops and over one another.

    Args:
        workdir: folder for what each member answered; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: trainings side by side, each in a process.
        on_part: called as `on_part(name, done, total)` after each member.

    Returns:
        A dict: `"errors"`, dict from `"single crop"`, `"multicrop"` to the top-1 error
        of each member, and from `"ensemble"` to a list of one; `"gains"`, dict from
        `"multicrop"`, `"ensemble"` to `[gain, low, high]` over the line before, with
        its 95 % interval, and from `"best"` to that of the ensemble over the best
        member's multicrop; `"images"`, test pictures; `"crops"`.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Ioffe & Szegedy 2015, section 4.2.3.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    arguments = plan._asdict()
    count = arguments.pop("members")
    parts = [
        Part(recipe.name, answers, {"member": recipe.name, **arguments})
        for recipe in recipes.ENSEMBLE[:count]
    ]
    measured = measure(parts, workdir, directories, jobs, on_part)
    members = list(measured.results.values())
    labels = np.array(members[0]["labels"])
    single, multiple = (
        np.array([member[name] for member in members])
        for name in ("single", "multiple")
    )
    return {
        "scale": scale,
        "seconds": measured.seconds,
        "images": len(labels),
        "crops": plan.crops,
        **compare(single, multiple, labels),
    }


def answers(directories, folder, *, member, data, size, width, epochs, images, crops):
    """Train one member and note its class probabilities, with one crop and with all.

    Args:
        directories: dict from a data set's name to the folder of its files.
        folder: where a training that was killed goes on; None to begin anew.
        member: name of a recipe of `bn_keras.training.recipes.ENSEMBLE`.
        data: name of the data set.
        size: height and width of the network's input.
        width: multiplies the channels.
        epochs: passes over the training pictures.
        images: test pictures.
        crops: of each picture.

    Returns:
        A dict from `"single"` and `"multiple"` to a list `(images, classes)`, and from
        `"labels"` to a list `(images,)`.
    """
    examples = load_data(data, directories.get(data))
    recipe = recipes.RECIPES[member]
    recipe = scaled_down(
        recipe,
        size,
        width,
        epochs,
        recipe.learning_rate,
        halvings(recipe),
        recipe.seed,
    )
    asked = sample(examples.test, images)
    model = trained(recipe, replace(examples, test=asked), folder)
    preprocessing = preprocessing_for(recipe, examples)
    found = {"labels": asked.labels.tolist()}
    for name, count in (("single", 1), ("multiple", crops)):
        pairs = predict_probabilities(model, asked, count, preprocessing, BATCH)
        together = np.concatenate([probabilities for probabilities, _ in pairs])
        found[name] = np.round(together, 6).tolist()
    return found


def compare(single, multiple, labels):
    """Errors of the three lines of figure 4, and what each gains over the one before.

    The gain's interval is that of the mean of the differences on the same pictures, so
    that pictures which are hard for both do not widen it.

    Args:
        single: class probabilities of one crop, `(members, images, classes)`.
        multiple: their means over the crops, likewise.
        labels: `(images,)`.

    Returns:
        A dict with `"errors"` and `"gains"`, as `run` has them.

    Example:
    ```python
    import numpy as np
    from bn_keras.experiments.ensemble import compare

    right, wrong = [[0.9, 0.1]], [[0.4, 0.6]]
    found = compare(np.array([right, wrong]), np.array([right, right]), [0])
    assert found["errors"]["single crop"] == [0.0, 1.0]
    assert found["gains"]["multicrop"][0] == 0.5
    ```
    """
    wrong = {
        "single crop": single.argmax(-1) != labels,
        "multicrop": multiple.argmax(-1) != labels,
        "ensemble": multiple.mean(0, keepdims=True).argmax(-1) != labels,
    }
    z = NormalDist().inv_cdf(0.975)
    means = {name: found.mean(0) for name, found in wrong.items()}
    best = wrong["multicrop"][wrong["multicrop"].mean(1).argmin()]
    differences = {
        **{after: means[one] - means[after] for one, after in pairwise(means)},
        "best": best - means["ensemble"],
    }
    gains = {}
    for name, gain in differences.items():
        half = z * gain.std(ddof=1 if gain.size > 1 else 0) / np.sqrt(gain.size)
        gains[name] = [float(gain.mean() + side * half) for side in (0, -1, 1)]
    return {
        "errors": {name: found.mean(1).tolist() for name, found in wrong.items()},
        "gains": gains,
    }


def rows(measurements):
    """Figure 4 beside what was measured.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`.
    """
    errors, images = measurements["errors"], measurements["images"]
    members = len(errors["single crop"])
    low, high = _interval(errors["ensemble"][0], images)
    count = {
        "single crop": f"mean and range of {members}",
        "multicrop": f"{measurements['crops']} crops, mean and range of {members}",
        "ensemble": f"of {members}, 95 % {100 * low:.1f} to {100 * high:.1f}",
    }
    found = [
        Row(
            f"top-1 error in %, {name} ({count[name]})",
            f"{paper} (ImageNet)",
            spread(errors[name], 100),
        )
        for name, paper in FIGURE_4.items()
    ]
    single, multiple, together = FIGURE_4.values()
    for name, than, paper in (
        ("multicrop", "single crop", single - multiple),
        ("ensemble", "its members' multicrop", multiple - together),
        ("best", "its best member's multicrop", multiple - together),
    ):
        gain, low, high = (100 * value for value in measurements["gains"][name])
        found.append(
            Row(
                f"{'ensemble' if name == 'best' else name}: points of error less than "
                f"{than}",
                f"more than 0 ({paper:.1f})",
                f"{gain:.1f} (95 % {low:.1f} to {high:.1f})",
                # Over test pictures, not over seeds: there is one ensemble.
                verdict([low, high]),
            )
        )
    return found


def _interval(error, images):
    return wilson_interval(round(error * images), images)


def plot(measurements):
    """Top-1 error of the three lines of figure 4.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`: a bar for the mean, a point for each network, and
        the 95 % interval of the ensemble's error.
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
        ylabel="top-1 error in %",
        title=f"{members} networks, {images:,} test pictures",
    )
    axes.margins(y=0.2)
    return figure
