"""An experiment of milliseconds, for the tests of what surrounds the experiments."""

from bn_keras.experiments.experiment import Experiment
from bn_keras.experiments.parts import Part
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range

TITLE = "A parabola <b>& more</b>"
# The number of seeds at each scale.
PLANS = {"smoke": 1, "default": 2, "full": 3}
PAGE = """\
# A parabola

## Set-up

Made up: <script>alert(1)</script> is not markup,
and these lines are one paragraph.

This is a second one, with `code`.

## Results

None of this is shown.

## What came out

It went `up`.
"""
SETUP = (
    "Made up: <script>alert(1)</script> is not markup, and these lines are one "
    "paragraph.\n\nThis is a second one, with `code`."
)


def square(directories, folder, seed):
    """Measure one part. The infinity must not make the JSON invalid."""
    return {
        "values": [seed + (x / 10) ** 2 for x in range(11)],
        "worst": float("inf"),
        "directories": sorted(directories),
    }


def rounds(seeds):
    results = yield [Part(f"seed{n}", square, {"seed": n}) for n in range(seeds)]
    return {"seeds": results}


def plot(measurements):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, seed in measurements["seeds"].items():
        axes.plot(seed["values"], label=name)
    axes.legend()
    return figure


def rows(measurements):
    last = [seed["values"][-1] for seed in measurements["seeds"].values()]
    text = mean_and_range(last)
    return [
        Row(
            *("The last value of the parabola [0, 1]", "1", text),
            count_seeds(len(last)),
            *2 * ["yes" if max(last) == 1 else "no"],
        ),
        Row('"><img src=x onerror=alert(1)>', "-", "&amp;"),
        Row(
            *("The last value is below zero", "below 0", text, count_seeds(len(last))),
            direction="yes" if max(last) < 0 else "no",
        ),
    ]


EXPERIMENT = Experiment("made-up", TITLE, PLANS, rounds, rows, plot)
