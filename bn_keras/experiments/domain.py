"""An open question of the paper: re-estimate only the statistics for a new domain."""

from dataclasses import replace
from math import sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from bn_keras.data import Arrays
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    Style,
    add_caption,
    draw_seeds,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range
from bn_keras.population import estimate_population_statistics
from bn_keras.training import train
from bn_keras.training.recipes import BN_CONVNET, BN_MLP


class DomainPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    seeds: int  # of the weights, the order of examples and the noise
    epochs: dict[str, int]  # by recipe
    counts: tuple[int, ...]  # unlabelled pictures of the new domain, ascending


COUNTS = (4, 16, 64, 1000)
PLANS = {
    "smoke": DomainPlan(
        data="digits", seeds=1, epochs={"bn-mlp": 3}, counts=(32, 1000)
    ),
    "default": DomainPlan(
        data="mnist", seeds=3, epochs={"bn-mlp": 4, "bn-convnet": 1}, counts=COUNTS
    ),
    "full": DomainPlan(
        data="mnist",
        seeds=5,
        epochs={recipe.name: recipe.epochs for recipe in (BN_MLP, BN_CONVNET)},
        counts=(*COUNTS, 10000, 60000),
    ),
}
RECIPES = {recipe.name: recipe for recipe in (BN_MLP, BN_CONVNET)}
TITLES = {"bn-mlp": "3 x 100 sigmoid units", "bn-convnet": "two 3x3 convolutions"}
FEW = 64  # pictures up to which the table compares the two estimates
# How a picture `p` with values from 0 to 1 is changed.
DOMAINS = {
    "original": "p",
    "dark": "p / 4",
    "grey": "p / 4 + 1/2",
    "inverted": "1 - p",
    "noisy": "p + N(0, 0.5), clipped to [0, 1]",
    "small": "3/4 of the size, on black",
}
NOISE, SMALLER = 0.5, 0.75


def _rounds(plan):
    """Train on the original domain, and adapt to each other one without labels.

    The measurements hold, for each network, what `_adapt` returned for each seed.

    Reference:
        Ioffe & Szegedy 2015, section 5.
    """
    facts = {"data": plan.data, "counts": plan.counts}
    trainings = {
        name: (_adapt, {"recipe": name, "epochs": epochs, **facts})
        for name, epochs in plan.epochs.items()
    }
    networks = yield from measure_seeds(plan.seeds, trainings)
    return {"data": plan.data, "networks": networks}


def _adapt(directories, folder, recipe, data, seed, epochs, counts):
    """Train one network, then estimate its population statistics on every domain.

    Each estimate starts from the trained network and uses the first `count` pictures of
    the training part, in an order that depends on the seed, without their labels.

    Returns a dict. `images` is the number of test pictures. `domains` is a dict from
    each domain to numbers of correct answers on the test part: `before` the estimate,
    `after` each of the `counts`, `mixed` after each of them with `prior_count="auto"`,
    layer by layer, and `back` on the original domain after the last estimate. `gained`
    and `lost` are the pictures whose answers became correct and wrong from before to
    the last estimate.
    """
    pictures = load_data(data, directories.get(data))
    # Training tests the network after each epoch. Nothing here uses the result, so one
    # test picture is enough.
    one_picture = Arrays(pictures.test.images[:1], pictures.test.labels[:1])
    model: Any
    model, _ = train(
        replace(RECIPES[recipe], epochs=epochs, seed=seed),
        replace(pictures, test=one_picture),
        verbose=0,
    )
    weights = model.get_weights()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(pictures.train))
    counts = sorted({min(count, len(order)) for count in counts})
    unlabelled = pictures.train.images[order[: counts[-1]]]

    def correct(images):
        answers = model.predict(images, batch_size=500, verbose=0).argmax(1)
        return answers == pictures.test.labels

    domains = {}
    for name in DOMAINS:
        model.set_weights(weights)
        test, train_part = (
            change_domain(name, images, generator)
            for images in (pictures.test.images, unlabelled)
        )
        answers, mixed = [correct(test)], []
        for count in counts:
            model.set_weights(weights)
            estimate_population_statistics(
                model, train_part[:count], "layerwise", verbose=0, prior_count="auto"
            )
            mixed.append(int(correct(test).sum()))
        for count in counts:
            model.set_weights(weights)
            estimate_population_statistics(
                model, train_part[:count], "pooled", verbose=0
            )
            answers.append(correct(test))
        before, last = answers[0], answers[-1]
        domains[name] = {
            "before": int(before.sum()),
            "after": [int(after.sum()) for after in answers[1:]],
            "mixed": mixed,
            "back": int(correct(pictures.test.images).sum()),
            "gained": int((last & ~before).sum()),
            "lost": int((before & ~last).sum()),
        }
    return {"images": len(pictures.test), "counts": counts, "domains": domains}


def change_domain(
    domain: str, images: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return the pictures as they look in another domain.

    Args:
        domain: A key of `DOMAINS`, which lists the changes.
        images: Square float32 pictures with values from 0 to 1,
            `(examples, height, width, channels)`.
        generator: The random generator of the noise.

    Returns:
        float32 pictures of the same shape.
    """
    if domain == "original":
        return images
    if domain == "dark":
        return images / 4
    if domain == "grey":
        return images / 4 + np.float32(0.5)
    if domain == "inverted":
        return 1 - images
    if domain == "noisy":
        noise = generator.standard_normal(images.shape, "float32")
        return np.clip(images + NOISE * noise, 0, 1)
    side = images.shape[1]
    smaller = round(SMALLER * side)
    # The pictures have their channels last, whatever Keras' setting.
    shrunk = ops.image.resize(
        images, (smaller, smaller), antialias=True, data_format="channels_last"
    )
    left = (side - smaller) // 2
    changed = np.zeros_like(images)
    changed[:, left : left + smaller, left : left + smaller] = shrunk
    return changed


def _plot(measurements):
    """Plot the accuracy before and after, by domain and by the pictures used."""
    from matplotlib.figure import Figure

    networks = measurements["networks"]
    figure = Figure(figsize=(10, 3.6 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), 2, squeeze=False)
    for (dots, curves), (name, seeds) in zip(grid, networks.items(), strict=True):
        _draw_dots(dots, seeds)
        _draw_curves(curves, seeds)
        for axes in (dots, curves):
            axes.set(ylim=(-0.03, 1.03), title=TITLES[name])
            axes.grid(alpha=0.3, axis="y")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=3)
    seeds = len(next(iter(networks.values())))
    add_caption(
        figure,
        "Test accuracy before and after the population statistics were estimated again "
        f"on the new domain. Means over {count_seeds(seeds)}; bars and bands are their "
        "range. Dashes: on the original domain, with the statistics of the new one.",
    )
    return figure


def _draw_dots(axes, seeds):
    """Draw the mean and the range over seeds, before and after, by domain."""
    places = np.arange(len(DOMAINS))
    for shift, moment, color, marker in (
        (-0.15, "before", BLACK, "o"),
        (0.15, "after", BLUE, "s"),
    ):
        values = np.array([_accuracies(seeds, domain, moment) for domain in DOMAINS])
        mean = values.mean(1)
        axes.errorbar(
            places + shift,
            mean,
            yerr=[mean - values.min(1), values.max(1) - mean],
            label=moment,
            color=color,
            marker=marker,
            linestyle="",
            capsize=3,
        )
    back = [_accuracies(seeds, domain, "back").mean() for domain in DOMAINS]
    label = "on the original domain, after"
    axes.plot(places + 0.3, back, "_", color=VERMILION, markersize=12, label=label)
    axes.set_xticks(places, DOMAINS)
    axes.set_ylabel("test accuracy")


_DOMAIN_STYLES = {
    "original": Style(BLACK, ":", "o"),
    "dark": Style(BLUE, "--", "s"),
    "grey": Style(ORANGE, "-", "^"),
    "inverted": Style(VERMILION, "-", "D"),
    "noisy": Style(GREEN, "-", "v"),
    "small": Style(PURPLE, "-", "P"),
}


def _draw_curves(axes, seeds):
    for domain in reversed(DOMAINS):
        values = [
            np.divide(seed["domains"][domain]["after"], seed["images"])
            for seed in seeds
        ]
        draw_seeds(axes, seeds[0]["counts"], values, _DOMAIN_STYLES[domain], domain)
    axes.set_xscale("log")
    axes.set(
        xlabel="unlabelled pictures of the new domain", ylabel="test accuracy after"
    )


def _rows(measurements):
    table = []
    for name, seeds in measurements["networks"].items():
        for domain, change in DOMAINS.items():
            before, after = (
                mean_and_range(_accuracies(seeds, domain, moment).tolist(), 100)
                for moment in ("before", "after")
            )
            directions = {_direction(seed, domain) for seed in seeds}
            direction = directions.pop() if len(directions) == 1 else "undecided"
            table.append(
                Row(
                    f"{TITLES[name]}, {domain} ({change}): accuracy (%)",
                    "-",
                    f"{before} -> {after}: {direction}",
                    count_seeds(len(seeds)),
                )
            )
    return [*table, *_rows_of_few(measurements)]


def _rows_of_few(measurements):
    """Return a row for each network and domain: estimates from few pictures."""
    table = []
    for name, seeds in measurements["networks"].items():
        counts = seeds[0]["counts"]
        few = [i for i, count in enumerate(counts) if count <= FEW]
        pictures = ", ".join(str(counts[i]) for i in few)
        for domain in DOMAINS:
            means = {
                moment: ", ".join(
                    f"{100 * _accuracies(seeds, domain, moment, i).mean():.1f}"
                    for i in few
                )
                for moment in ("after", "mixed")
            }
            table.append(
                Row(
                    f"{TITLES[name]}, {domain}, {pictures} pictures: accuracy (%)",
                    "-",
                    f"new statistics {means['after']}; mixed with the old ones "
                    f"{means['mixed']}",
                    count_seeds(len(seeds)),
                )
            )
    return table


def _accuracies(seeds, domain, moment, position=-1):
    """Return each seed's share of correct answers; an array.

    `moment` is "before", "after", "mixed" or "back"; the position is that of the count
    of pictures for "after" and "mixed".
    """
    correct = [seed["domains"][domain][moment] for seed in seeds]
    if moment in ("after", "mixed"):
        correct = [counts[position] for counts in correct]
    return np.divide(correct, [seed["images"] for seed in seeds])


def _direction(seed, domain):
    """Return what the 95% interval of the paired difference says."""
    gained, lost = (seed["domains"][domain][key] for key in ("gained", "lost"))
    variance = gained + lost - (gained - lost) ** 2 / seed["images"]
    if abs(gained - lost) <= NormalDist().inv_cdf(0.975) * sqrt(variance):
        return "undecided"
    return "higher" if gained > lost else "lower"


EXPERIMENT = Experiment(
    "domain",
    "A new domain: re-estimating only the population statistics",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
