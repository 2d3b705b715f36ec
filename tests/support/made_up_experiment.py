"""An experiment of milliseconds, for the tests of what surrounds the experiments."""

from bn_keras.experiments.parts import Part, check_scale, measure
from bn_keras.experiments.rows import Row, spread

TITLE = "A parabola <b>& more</b>"
PLANS = {"smoke": 1, "default": 2, "full": 3}
REMARK = """\
Made up: <script>alert(1)</script> is no markup,
and these lines are one paragraph.

This is a second one."""
OUTCOME = "It went up."


def square(directories, folder, seed):
    """Measure the one part of a seed; what is infinite must not harm the JSON."""
    return {
        "values": [seed + (x / 10) ** 2 for x in range(11)],
        "worst": float("inf"),
        "directories": sorted(directories),
    }


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    check_scale(scale, PLANS)
    parts = [Part(f"seed{n}", square, {"seed": n}) for n in range(PLANS[scale])]
    measured = measure(parts, workdir, directories, jobs, on_part)
    return {"scale": scale, "seconds": measured.seconds, "seeds": measured.results}


def plot(measurements):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, found in measurements["seeds"].items():
        axes.plot(found["values"], label=name)
    axes.legend()
    return figure


def rows(measurements):
    last = [found["values"][-1] for found in measurements["seeds"].values()]
    return [
        Row("The last value of the parabola [0, 1]", "1", spread(last), max(last) == 1),
        Row('"><img src=x onerror=alert(1)>', "-", "&amp;"),
        Row("The last value is below zero", "below 0", spread(last), max(last) < 0),
    ]
