"""The paper's open question: a new domain, and only the population statistics anew.

Knows recipes, pictures and how to change them; not how results are shown beside those
of other experiments.
"""

from dataclasses import replace
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from keras import ops

from bn_keras.data import Arrays
from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.parts import Part, check_scale, load_data, measure
from bn_keras.experiments.rows import Row, spread
from bn_keras.population import estimate_population_statistics
from bn_keras.training import train
from bn_keras.training.recipes import BN_CONVNET, BN_MLP

TITLE = "A new domain: only the population statistics are estimated anew"


class Plan(NamedTuple):
    """The sizes of a run.

    Args:
        data: name of the data set.
        seeds: of the initial weights, the order of examples and the noise.
        epochs: dict from a recipe's name to its epochs.
        counts: numbers of unlabelled pictures of the new domain, ascending.
    """

    data: str
    seeds: int
    epochs: dict[str, int]
    counts: tuple[int, ...]


COUNTS = (2, 8, 32, 100, 1000)
PLANS = {
    "smoke": Plan(data="digits", seeds=1, epochs={"bn-mlp": 3}, counts=(32, 1000)),
    "default": Plan(
        data="mnist", seeds=3, epochs={"bn-mlp": 4, "bn-convnet": 1}, counts=COUNTS
    ),
    "full": Plan(
        data="mnist",
        seeds=5,
        epochs={recipe.name: recipe.epochs for recipe in (BN_MLP, BN_CONVNET)},
        counts=(*COUNTS, 10000, 60000),
    ),
}
RECIPES = {recipe.name: recipe for recipe in (BN_MLP, BN_CONVNET)}
TITLES = {"bn-mlp": "3 x 100 sigmoid units", "bn-convnet": "two 3x3 convolutions"}
# How a picture `p` of values from 0 to 1 is changed.
DOMAINS = {
    "original": "p",
    "dark": "p / 4",
    "grey": "p / 4 + 1/2",
    "inverted": "1 - p",
    "noisy": "p + N(0, 0.5), cut to [0, 1]",
    "small": "3/4 of the size, on black",
}
NOISE, SMALLER = 0.5, 0.75
REMARK = """\
The paper asks whether the population statistics alone, estimated anew, would do for a \
new domain, and measures nothing. Chosen here: digits with grey pixels, two small \
recipes, the strength of each change, and the 'pooled' estimate on training pictures \
of the new domain without their labels. The original domain is the control: what the \
estimate from few pictures costs there, it costs elsewhere.

Higher or lower is said where every seed shows it: before and after are compared on \
the same test pictures, and the 95 % interval of the difference must leave out 0.\
"""
OUTCOME = """\
Where pixels are multiplied by a positive number, with or without one added, BN takes \
it back: the dense network is on dark and grey digits what it is on the original ones. \
The convolutions lose on grey ones, likely because the zeros beside the picture do not \
change with it. Noise is mended in part.

It does not help where statistics are not what has changed. Small digits have other \
shapes. Inverted ones leave the dense network almost always wrong: W(1 - p) normalized \
is Wp normalized with the other sign, so the estimate takes back the constant and \
leaves every feature turned over.

The price is paid on the original domain, for which the new statistics are wrong. A \
hundred pictures are enough for the dense network and a few for the convolutions, \
which see hundreds of positions a picture.\
"""


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train on the original domain, adapt to each other one without labels.

    Args:
        workdir: folder for what was measured; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to its folder.
        jobs: processes side by side.
        on_part: as `parts.measure` has it.

    Returns:
        A dict that JSON can hold, for `plot` and `rows`.

    Raises:
        ValueError: for an unknown scale.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    parts = [
        Part(
            f"{name}-seed{seed}",
            adapt_to_domains,
            {
                "recipe": name,
                "data": plan.data,
                "seed": seed,
                "epochs": epochs,
                "counts": plan.counts,
            },
        )
        for seed in range(plan.seeds)
        for name, epochs in plan.epochs.items()
    ]
    measured = measure(parts, workdir, directories, jobs, on_part)
    return {
        "scale": scale,
        "seconds": round(measured.seconds, 1),
        "data": plan.data,
        "networks": {
            name: [measured.results[f"{name}-seed{seed}"] for seed in range(plan.seeds)]
            for name in plan.epochs
        },
    }


def adapt_to_domains(recipe, data, seed, epochs, counts, directories=None, folder=None):
    """Train one network, then estimate its population statistics on every domain.

    Each estimate begins with the trained network, takes the first `count` pictures of
    the training part in an order of the seed, and no label.

    Args:
        recipe: a key of `RECIPES`.
        data: name of the data set.
        seed: of the recipe, that order and the noise.
        epochs: of the training.
        counts: numbers of pictures, ascending; at most all are taken.
        directories: dict from a data set's name to its folder.
        folder: not used.

    Returns:
        A dict: `images`, the number of test pictures; `counts`; and `domains`, a dict
        from each name to right answers on the test part: `before` the estimate,
        `after` one number a count, `back` on the original domain after the last;
        and of the pictures those `gained` and `lost` from before to the last.
    """
    pictures = load_data(data, (directories or {}).get(data))
    # Each epoch ends with a look at the test pictures, which nothing here asks for.
    few = Arrays(pictures.test.images[:1], pictures.test.labels[:1])
    model, _ = train(
        replace(RECIPES[recipe], epochs=epochs, seed=seed),
        replace(pictures, test=few),
        verbose=0,
    )
    weights = model.get_weights()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(pictures.train))
    counts = sorted({min(count, len(order)) for count in counts})
    unlabelled = pictures.train.images[order[: counts[-1]]]

    def right(images):
        answers = model.predict(images, batch_size=500, verbose=0).argmax(1)
        return answers == pictures.test.labels

    found = {}
    for name in DOMAINS:
        model.set_weights(weights)
        test, train_part = (
            change(name, images, generator)
            for images in (pictures.test.images, unlabelled)
        )
        courses = [right(test)]
        for count in counts:
            model.set_weights(weights)
            estimate_population_statistics(
                model, train_part[:count], "pooled", verbose=0
            )
            courses.append(right(test))
        before, last = courses[0], courses[-1]
        found[name] = {
            "before": int(before.sum()),
            "after": [int(one.sum()) for one in courses[1:]],
            "back": int(right(pictures.test.images).sum()),
            "gained": int((last & ~before).sum()),
            "lost": int((before & ~last).sum()),
        }
    return {"images": len(pictures.test), "counts": counts, "domains": found}


def change(domain, images, generator):
    """The pictures as they are in another domain.

    Args:
        domain: a key of `DOMAINS`, which says how.
        images: float32 `(examples, height, width, channels)` from 0 to 1, as wide as
            high.
        generator: a `numpy.random.Generator`, for the noise.

    Returns:
        float32 images of the same shape.
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
    # Channels are last whatever Keras' setting.
    shrunk = ops.image.resize(
        images, (smaller, smaller), antialias=True, data_format="channels_last"
    )
    left = (side - smaller) // 2
    changed = np.zeros_like(images)
    changed[:, left : left + smaller, left : left + smaller] = shrunk
    return changed


def plot(measurements):
    """Accuracy before and after for each domain, and against the pictures it took.

    Bars are means over seeds with the seeds' range, dashes the original domain after
    the estimate on the new one.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    networks = measurements["networks"]
    figure = Figure(figsize=(10, 3.6 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), 2, squeeze=False)
    places = np.arange(len(DOMAINS))
    for (bars, curves), (name, seeds) in zip(grid, networks.items(), strict=True):
        for shift, what, colour in ((-0.2, "before", "0.7"), (0.2, "after", "C0")):
            values = np.array([accuracies(seeds, one, what) for one in DOMAINS])
            mean = values.mean(1)
            ranges = [mean - values.min(1), values.max(1) - mean]
            bars.bar(
                places + shift,
                mean,
                0.4,
                yerr=ranges,
                label=what,
                color=colour,
                capsize=3,
            )
        back = [accuracies(seeds, one, "back").mean() for one in DOMAINS]
        bars.plot(places + 0.2, back, "k_", markersize=12, label="after, on original")
        bars.set_xticks(places, DOMAINS)
        bars.set(ylabel="test accuracy", ylim=(0, 1.03), title=TITLES[name])
        counts = seeds[0]["counts"]
        for one in reversed(DOMAINS):
            values = [
                np.divide(seed["domains"][one]["after"], seed["images"])
                for seed in seeds
            ]
            # Those that end at the same place lie over each other.
            style = {"original": "o:", "dark": "o--"}.get(one, "o-")
            draw_seeds(curves, counts, values, style, one).set_markersize(3)
        curves.set_xscale("log")
        curves.set(
            xlabel="unlabelled pictures of the new domain",
            ylabel="test accuracy after",
            ylim=(0, 1.03),
            title=TITLES[name],
        )
        for axes in (bars, curves):
            axes.grid(alpha=0.3, axis="y")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3)
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower right", ncols=3)
    return figure


def rows(measurements):
    """Accuracy before and after the estimate, for each network and domain.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`.
    """
    found = []
    for name, seeds in measurements["networks"].items():
        for domain, how in DOMAINS.items():
            before, after = (
                spread(accuracies(seeds, domain, what).tolist(), 100)
                for what in ("before", "after")
            )
            directions = {_direction(one, domain) for one in seeds}
            word = directions.pop() if len(directions) == 1 else "undecided"
            found.append(
                Row(
                    f"{TITLES[name]}, {domain} ({how}): accuracy in %",
                    "-",
                    f"{before} -> {after}: {word}",
                )
            )
    return found


def accuracies(seeds, domain, what):
    """Shares of right answers on the test part, one a seed.

    Args:
        seeds: what `adapt_to_domains` returned, for each seed.
        domain: a key of `DOMAINS`.
        what: `"before"`; `"after"`, with all pictures; or `"back"`.

    Returns:
        float64 `(seeds,)`.
    """
    right = [one["domains"][domain][what] for one in seeds]
    if what == "after":
        right = [each[-1] for each in right]
    return np.divide(right, [one["images"] for one in seeds])


def _direction(one, domain):
    """What the 95 % interval of the paired difference says."""
    gained, lost = (one["domains"][domain][what] for what in ("gained", "lost"))
    variance = gained + lost - (gained - lost) ** 2 / one["images"]
    if abs(gained - lost) <= NormalDist().inv_cdf(0.975) * sqrt(variance):
        return "undecided"
    return "higher" if gained > lost else "lower"
