"""The section on data, training and evaluation."""

from docs.pages.markdown import load, number, source, table


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
