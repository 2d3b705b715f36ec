"""The section on data, training and evaluation."""

from bn_keras.experiments.intervals import mean_interval
from docs.pages.markdown import load, number, source, table

# What is compared of two trainings on the same mini-batches.
_ACCURACIES = ("training", "test")


def training_section():
    """Return the sections on data, evaluation and training."""
    data, evaluation, training = load("data"), load("evaluation"), load("training")
    recipes = load("recipes")
    pipeline_rows = [
        [
            row["pipeline"],
            number(row["images a second"]),
            number(row["training images a second"]),
            number(row["ratio"], 2),
        ]
        for row in data["rows"]
    ]
    recipe_rows = [
        [
            f"`{name}`",
            result["learning_rate"],
            f"{result['training_loss']:.3f}",
            "{:.1%} ({:.1%} to {:.1%})".format(
                result["test_accuracy"], *result["test_interval"]
            ),
        ]
        for name, result in recipes["results"].items()
    ]
    crops = ", ".join(
        f"{row['ratio']:.2f} ({row['case']})" for row in evaluation["rows"]
    )
    paper_rows = [
        [
            f"`{row['recipe']}`",
            row["images a second"],
            f"{row['steps of 32'] / 1e6:.1f} million",
            f"{row['epochs']:,}",
            f"{row['hours']:,}",
            row["machines for two weeks"],
        ]
        for row in training["rows"]
    ]
    paper_columns = [
        "recipe",
        "images a second",
        "steps of 32 images",
        "epochs",
        "hours",
        "machines to finish in two weeks",
    ]
    files = {row["pipeline"]: row["images a second"] for row in data["rows"]}
    folder = next(value for key, value in files.items() if "JPEG" in key)
    records = next(value for key, value in files.items() if "of the same" in key)
    return f"""\
## Data, training and evaluation

Input pipelines with training's augmentation, beside the training step of BN-Inception that
they feed:

{table(["pipeline", "images a second", "the training step's", "ratio"], pipeline_rows)}

TFRecord shards are meant for files that are read over a network, which was not measured. On a local disk a folder of JPEG
files is faster than records of the same files: {number(folder)} and {
        number(records)
    } images a
second. {source(data, "data")}

{_beside_keras(load("training_peers"))}

The recipes after 600 steps on CIFAR-10 at a quarter of the width, one seed, the paper's own
learning rates. Chance is 10%; so few steps show how the networks begin to learn, not their best accuracies.

{
        table(
            ["recipe", "learning rate", "training loss", "test accuracy (95%)"],
            recipe_rows,
        )
    }

{source(recipes, "recipes")}

Evaluating 144 crops of a picture takes, for each crop, {
        crops
    } of the time of a single crop.
{source(evaluation, "evaluation")}

Estimates of the full ImageNet runs of the paper's figure 3, from the training steps measured at
224 x 224, if work were divided among machines without loss.

{table(paper_columns, paper_rows)}

{source(training, "training")}
"""


def _beside_keras(facts):
    """Return the comparison with Keras' `fit` and PyTorch."""
    speeds = facts["speed"]
    names = {
        "bn_keras": "`bn_keras.training.train`",
        "Keras": "Keras' `fit`, layer and folder reader",
        "PyTorch": "PyTorch, one mini-batch in memory",
    }
    speed_rows = [
        [
            names[name],
            number(speed["images a second"]),
            f"{number(min(speed['epochs']))} to {number(max(speed['epochs']))}",
            f"{speeds['bn_keras']['images a second'] / speed['images a second']:.2f}",
        ]
        for name, speed in speeds.items()
    ]
    seeds = facts["accuracy"]
    accuracy_rows = [
        [
            names[name] if name == "bn_keras" else "Keras' `fit` and layer",
            *(_mean_and_range(row[name][key] for row in seeds) for key in _ACCURACIES),
        ]
        for name in ("bn_keras", "Keras")
    ]
    differences = []
    for key in _ACCURACIES:
        points = [100 * (row["bn_keras"][key] - row["Keras"][key]) for row in seeds]
        differences.append("{:.1f} ({:.1f} to {:.1f})".format(*mean_interval(points)))
    columns = [f"{key} accuracy (%)" for key in _ACCURACIES]
    accuracy_rows.append(["difference (points)", *differences])
    count = len(speeds["bn_keras"]["epochs"])
    speed_columns = ["training", "images a second", "of each epoch", "`train` / this"]
    slow = "".join(
        f" {below} of the {count} epochs of {names[name]} took more than twice the median "
        "time; the cause is not known."
        for name, speed in speeds.items()
        if (below := sum(x < speed["images a second"] / 2 for x in speed["epochs"]))
    )
    width, narrow = facts["width"], facts["accuracy width"]
    steps = seeds[0]["steps"]
    return f"""\
BN-x5 at {width:g} of the width on CIFAR-10 from 32x32 PNG files, epoch by epoch in turns: median
and range of {count} epochs. `train` augments as the recipe does, checks files, writes checkpoints and
watches for divergence. Keras rescales and flips. PyTorch reads no files.{slow}

{table(speed_columns, speed_rows)}

At {narrow:g} of the width, both from the same initial weights on the same mini-batches,
{steps} steps, {len(seeds)} seeds, 10,000 test pictures: mean and range over seeds, and the 95% interval of
the paired difference. Keras tests with moving averages, `train` with the statistics that it
estimates at the end.

{table(["training", *columns], accuracy_rows)}

{source(facts, "training_peers")}"""


def _mean_and_range(values):
    values = [100 * value for value in values]
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
