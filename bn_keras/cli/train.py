"""The commands `train` and `evaluate`.

Knows their options and what they print; no arithmetic.
"""

import textwrap
from dataclasses import replace

from bn_keras.cli import argument_types
from bn_keras.cli.command import add_data, command, load_data, make_folder, progress_bar
from bn_keras.images.crops import CROPS
from bn_keras.models.inception import SHORTEST_SIDE
from bn_keras.training import recipes, run_record
from bn_keras.training.distribution import DISTRIBUTIONS

# Options of `train` that replace the recipe's fact of the same name.
_FACTS = (
    *("epochs", "seed", "batch_size", "learning_rate", "width", "stem", "dtype"),
    *("clip_norm", "synchronized"),
)
PICTURES = (".png", ".svg")


def add(commands):
    """Add these commands to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        train,
        "Train a model by a recipe and save it as WORKDIR/RECIPE.keras. A run that was "
        "killed goes on from its last checkpoint when the command is given again.",
        "bn-keras train bn-mlp --data mnist --data-dir mnist/ --workdir run/",
    )
    sub.add_argument(
        "recipe",
        metavar="RECIPE",
        choices=recipes.RECIPES,
        help=", ".join(recipes.RECIPES),
    )
    add_data(sub)
    sub.add_argument(
        "--workdir", type=argument_types.path, required=True, help="made if missing"
    )
    sub.add_argument(
        "--checkpoint-steps",
        type=argument_types.positive,
        metavar="N",
        help="a checkpoint each N steps too, not only at the end of an epoch",
    )
    sub.add_argument(
        "--tensorboard",
        action="store_true",
        help="write WORKDIR/RECIPE.tensorboard; needs the package tensorboard",
    )
    sub.add_argument(
        "--distribute",
        choices=DISTRIBUTIONS,
        metavar="HOW",
        help="mirrored: all GPUs here; multi_worker: of all machines in TF_CONFIG; "
        "data_parallel: all devices of JAX, of several machines too",
    )
    facts = sub.add_argument_group("instead of the recipe's")
    facts.add_argument("--epochs", type=argument_types.positive, metavar="N")
    facts.add_argument("--seed", type=argument_types.seed, metavar="N")
    facts.add_argument("--batch-size", type=argument_types.positive, metavar="N")
    facts.add_argument(
        "--linear-scaling",
        action="store_true",
        help="with --batch-size: the learning rate grows with it",
    )
    facts.add_argument("--learning-rate", type=argument_types.above_zero, metavar="X")
    facts.add_argument(
        "--image-size",
        type=argument_types.pixels,
        metavar="PIXELS",
        help="side of the model's input; default: that of the data set's pictures, or "
        "224 where they have several sizes",
    )
    facts.add_argument(
        "--width",
        type=argument_types.above_zero,
        metavar="X",
        help="factor of the channels",
    )
    facts.add_argument(
        "--stem",
        choices=SHORTEST_SIDE,
        help="default: small for up to 64 pixels",
    )
    facts.add_argument(
        "--dtype", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    facts.add_argument(
        "--clip-norm",
        type=argument_types.above_zero,
        metavar="X",
        help="largest norm of the whole gradient; default: not clipped",
    )
    facts.add_argument(
        "--synchronized",
        action="store_const",
        const=True,
        help="statistics over the mini-batches of all devices (on JAX always so)",
    )

    sub = command(
        commands,
        evaluate,
        "Print top-1 and top-5 accuracy on the test examples, with their intervals of "
        "95 per cent. Several models are an ensemble: the mean of their probabilities.",
        "bn-keras evaluate run/bn-mlp.keras --data digits",
    )
    sub.add_argument(
        "models", metavar="MODEL.keras", type=argument_types.path, nargs="+"
    )
    add_data(sub)
    sub.add_argument(
        "--crops",
        type=int,
        choices=CROPS,
        default=1,
        help="of each picture; default: %(default)s",
    )
    sub.add_argument(
        "--per-class", action="store_true", help="print a line for each class too"
    )
    sub.add_argument(
        "--confusion",
        type=argument_types.path,
        metavar="FILE",
        help="draw the confusion matrix there, .png or .svg",
    )


def train(options):
    """Train by a recipe."""
    from bn_keras.training import distribution, train

    place = distribution.start(options.distribute)
    recipe = _recipe(options)
    path = options.workdir / f"{recipe.name}.keras"
    if path.is_dir():
        raise ValueError(
            f"Expected {path} to be free, or an earlier model to replace. Received: a "
            "folder; choose another --workdir"
        )
    examples = load_data(options)
    make_folder(options.workdir)
    train(
        recipe,
        examples,
        options.workdir,
        checkpoint_steps=options.checkpoint_steps,
        tensorboard=options.tensorboard,
        distributed=place,
    )
    if place.machine == 0:
        print(f"saved {path}")
    return 0


def _recipe(options):
    """The recipe with the facts that the options replace."""
    recipe = recipes.RECIPES[options.recipe]
    if options.linear_scaling:
        if options.batch_size is None:
            raise ValueError(
                "--linear-scaling expects a batch size to scale to. Received: none; "
                "add --batch-size"
            )
        if options.learning_rate is not None:
            raise ValueError(
                "--linear-scaling and --learning-rate exclude one another. Received: "
                "both; leave one out"
            )
        recipe = recipe.scaled(options.batch_size)
    given = {name: getattr(options, name) for name in _FACTS}
    recipe = replace(
        recipe, **{name: value for name, value in given.items() if value is not None}
    )
    if options.image_size is not None:
        size = (options.image_size, options.image_size)
        recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, size=size))
    return recipe


def evaluate(options):
    """Evaluate a model, or several together."""
    from bn_keras.cli.user_files import load_model
    from bn_keras.evaluation import evaluate

    if options.confusion is not None and (
        options.confusion.suffix not in PICTURES
        or not options.confusion.absolute().parent.is_dir()
    ):
        raise ValueError(
            f"--confusion expects a file named {' or '.join(PICTURES)} in a folder "
            f"that exists. Received: {options.confusion}; name another"
        )
    models = [load_model(path) for path in options.models]
    examples = load_data(options)
    preprocessing = _shared_preprocessing(options.models, examples.class_names)
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(examples.test))
        found = evaluate(
            models,
            examples.test,
            options.crops,
            preprocessing,
            on_batch_end=lambda done: progress.update(task, completed=done),
        )
    print(found)
    if options.per_class:
        _show_classes(found, examples.class_names)
    if options.confusion is not None:
        _draw(found, examples.class_names, options.confusion)
    return 0


def _shared_preprocessing(paths, class_names):
    """That of the runs beside the models, None where there is none."""
    runs_beside = [run_record.beside(path) for path in paths]
    for path, run in zip(paths, runs_beside, strict=True):
        if run is not None and run.class_names != class_names:
            raise ValueError(
                f"{path.stem}.json says that the model knows "
                f"{_shortened(run.class_names)}. Received: pictures of "
                f"{_shortened(class_names)}; choose the data set that it was trained on"
            )
    found = [run and run.preprocessing for run in runs_beside]
    for path, preprocessing in zip(paths, found, strict=True):
        if preprocessing != found[0]:
            raise ValueError(
                "The models of an ensemble must take pictures in the same way. "
                f"Received: {paths[0]} and {path}, of which the files "
                f"{paths[0].stem}.json and {path.stem}.json tell another preprocessing "
                "or are missing; evaluate them one by one"
            )
    return found[0]


def _shortened(names):
    return textwrap.shorten(f"{len(names)} classes ({', '.join(names)})", 200)


def _show_classes(found, class_names):
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "images", "top-1", "top-5")
    names = [*class_names, *map(str, range(len(class_names), len(found.per_class)))]
    for name, score in zip(names, found.per_class, strict=False):
        table.add_row(
            name, f"{score.images:,}", f"{score.top1:.4f}", f"{score.top5:.4f}"
        )
    Console().print(table)


def _draw(found, class_names, path):
    from bn_keras.atomic_files import atomic_write
    from bn_keras.evaluation import plot_confusion

    with atomic_write(path) as temporary_path:
        plot_confusion(found, class_names).savefig(temporary_path)
