"""The command `train`."""

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from bn_keras import devices
from bn_keras.cli import argument_types, messages
from bn_keras.cli.data_options import add_data_options, load_data
from bn_keras.cli.parsers import OneLineParser
from bn_keras.models.stems import SHORTEST_SIDE
from bn_keras.training import recipes
from bn_keras.training.distribution import DISTRIBUTIONS

if TYPE_CHECKING:
    from bn_keras.data import Data
    from bn_keras.training.distribution import OneDevice
    from bn_keras.training.outputs import Outputs
    from bn_keras.training.recipes import Recipe

# The options that replace the field of the same name in the recipe.
_RECIPE_OPTIONS = (
    *("epochs", "seed", "batch_size", "learning_rate", "width", "stem", "dtype"),
    *("clip_norm", "synchronized", "class_weights", "keep_best", "patience"),
    *("initial_weights", "freeze_statistics"),
)


def add_options(parser: OneLineParser) -> None:
    """Add the options of `train`."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        choices=tuple(recipes.RECIPES),
        help=f"{', '.join(recipes.RECIPES)}; bn-keras recipes shows their values",
    )
    add_data_options(parser)
    parser.add_argument(
        "--workdir",
        type=argument_types.path,
        required=True,
        metavar="DIR",
        help="created if it does not exist",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read the data set, build the model, print what would be trained and "
        "written, and exit",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="train from the beginning where WORKDIR holds the run already, finished "
        "or not",
    )
    parser.add_argument(
        "--log-seconds",
        type=argument_types.seconds,
        default=30.0,
        metavar="SECONDS",
        help="time between two lines of progress where standard error is no terminal; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=argument_types.positive_integer,
        metavar="N",
        help="write a checkpoint every N steps, not only at the end of every epoch",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write WORKDIR/RECIPE.tensorboard; needs the package tensorboard",
    )
    parser.add_argument(
        "--distribute",
        choices=tuple(DISTRIBUTIONS),
        metavar="HOW",
        help="mirrored: all GPUs of this machine; multi_worker: those of all machines "
        "in TF_CONFIG; data_parallel: all devices of JAX, on one or several machines",
    )
    facts = parser.add_argument_group("instead of the recipe's values")
    facts.add_argument("--epochs", type=argument_types.positive_integer, metavar="N")
    facts.add_argument("--seed", type=argument_types.seed, metavar="N")
    facts.add_argument(
        "--batch-size", type=argument_types.positive_integer, metavar="N"
    )
    facts.add_argument(
        "--linear-scaling",
        action="store_true",
        help="scale the learning rate in proportion to --batch-size",
    )
    facts.add_argument(
        "--learning-rate", type=argument_types.positive_number, metavar="X"
    )
    facts.add_argument(
        "--image-size",
        type=argument_types.pixels,
        metavar="PIXELS",
        help="height and width of the model's input; default: those of the data set's "
        "pictures, or 224 if they differ in size",
    )
    facts.add_argument(
        "--width",
        type=argument_types.positive_number,
        metavar="X",
        help="multiplier of the number of channels",
    )
    facts.add_argument(
        "--stem",
        choices=tuple(SHORTEST_SIDE),
        help="default: small for pictures of up to 64 pixels",
    )
    facts.add_argument(
        "--dtype", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    facts.add_argument(
        "--clip-norm",
        type=argument_types.positive_number,
        metavar="X",
        help="largest norm of the whole gradient; default: it is not clipped",
    )
    facts.add_argument(
        "--class-weights",
        action="store_const",
        const=True,
        help="weight each class by the inverse of its number of training examples",
    )
    facts.add_argument(
        "--keep-best",
        action="store_const",
        const=True,
        help="save the weights of the epoch with the highest validation accuracy, "
        "measured on val/, or else on a tenth of the training examples",
    )
    facts.add_argument(
        "--early-stopping",
        dest="patience",
        type=argument_types.positive_integer,
        metavar="N",
        help="end after N epochs without a higher validation accuracy",
    )
    facts.add_argument(
        "--initial-weights",
        metavar="WEIGHTS",
        help="imagenet, which is downloaded, or a file: TF-Slim's inception_v2.ckpt, "
        "or .keras or .weights.h5 of the same network. The classifier is new if the "
        "classes differ",
    )
    facts.add_argument(
        "--freeze-statistics",
        action="store_const",
        const=True,
        help="normalize by the statistics of the initial weights",
    )
    facts.add_argument(
        "--synchronized",
        action="store_const",
        const=True,
        help="compute the statistics over the mini-batches of all devices, as is "
        "always done on JAX",
    )


def start(options: Namespace) -> None:
    """Start Keras, without GPUs for a dry run."""
    devices.start_keras(gpus=not options.dry_run)


def run(options: Namespace) -> int:
    """Train by a recipe, or show what would be done."""
    from bn_keras.cli.user_files import make_folder
    from bn_keras.training import distribution, train
    from bn_keras.training.outputs import Outputs
    from bn_keras.training.preparation import describe_run

    # Before anything is computed, because the distribution may open devices itself.
    distributed = distribution.start(None if options.dry_run else options.distribute)
    recipe = _recipe(options)
    path = options.workdir / f"{recipe.name}.keras"
    if path.is_dir():
        raise ValueError(
            f"{path} must be a file, or not exist. Received: a folder. Choose another "
            "--workdir"
        )
    examples = load_data(options)
    if options.dry_run:
        _show_plan(options, recipe, examples)
        return 0
    make_folder(options.workdir)
    outputs = Outputs(options.workdir, recipe.name, chief=distributed.machine == 0)
    record = describe_run(recipe, examples, distributed, options.tensorboard)
    if not options.restart and outputs.is_finished(record):
        print(f"finished: {path} (--restart trains again)")
        return 0
    if outputs.chief:
        _report_start(options, recipe, examples, outputs, distributed)
    train(
        recipe,
        examples,
        options.workdir,
        checkpoint_steps=options.checkpoint_steps,
        tensorboard=options.tensorboard,
        distributed=distributed,
        restart=options.restart,
        log_seconds=options.log_seconds,
    )
    if distributed.machine == 0:
        print(f"saved {path}")
    return 0


def _report_start(
    options: Namespace,
    recipe: "Recipe",
    examples: "Data",
    outputs: "Outputs",
    distributed: "OneDevice",
) -> None:
    """Report what a run reads, on which devices it trains, and where it begins."""
    from bn_keras.data.layouts import count_noun
    from bn_keras.data.summary import summarize
    from bn_keras.training.preparation import divide

    if not options.restart:
        outputs.check_epochs(recipe)
    divided = divide(recipe, examples)
    lines = summarize(divided)
    if divided is not examples:
        lines.append("every tenth training example is a validation example")
    lines.append(distributed.describe())
    count, start = len(divided.train), "trains"
    if not options.restart and (unfinished := outputs.unfinished()) is not None:
        # Some of its files may be missing now.
        count = unfinished.examples
        start = f"resumes after step {outputs.steps_made():,} of"
    epochs = count_noun(recipe.epochs, "epoch")
    steps = count_noun(recipe.steps_per_epoch(count), "step")
    lines.append(f"{start} {epochs} of {steps}")
    for line in lines:
        messages.report(line)


def _recipe(options: Namespace) -> "Recipe":
    """Return the recipe with the values that the options replace."""
    recipe = recipes.RECIPES[options.recipe]
    if options.linear_scaling:
        if options.batch_size is None:
            raise ValueError(
                "--linear-scaling must have a batch size to scale to. Received: none. "
                "Add --batch-size"
            )
        if options.learning_rate is not None:
            raise ValueError(
                "--linear-scaling and --learning-rate must not be given together. "
                "Received: both. Leave one out"
            )
        recipe = recipe.with_batch_size(options.batch_size)
    values = {name: getattr(options, name) for name in _RECIPE_OPTIONS}
    recipe = replace(
        recipe, **{name: value for name, value in values.items() if value is not None}
    )
    if options.image_size is not None:
        size = (options.image_size, options.image_size)
        recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, size=size))
    return recipe


def _show_plan(options: Namespace, recipe: "Recipe", examples: "Data") -> None:
    """Print what a training run would read, build, train and write."""
    from bn_keras.training import build
    from bn_keras.training.distribution import OneDevice
    from bn_keras.training.outputs import Outputs
    from bn_keras.training.preparation import describe_run, divide

    outputs = Outputs(options.workdir, recipe.name)
    if not options.restart:
        examples = outputs.follow(examples)
        record = describe_run(recipe, examples, OneDevice())
        outputs.check(record)
        if outputs.is_finished(record):
            print(f"finished: {outputs.model} (--restart trains again)")
            return
    examples = divide(recipe, examples)
    model = build(recipe, examples)
    normalization = "with" if recipe.batch_normalization else "without"
    decay = ""
    if recipe.decay != 1:
        decay = f" times {recipe.decay:g} every {recipe.decay_epochs:.3g} epochs"
    steps = recipe.steps_per_epoch(len(examples.train))
    files = [outputs.model, outputs.record, outputs.curve]
    if options.tensorboard:
        files.append(outputs.tensorboard)
    exists = " (replacing the model there)" if outputs.model.exists() else ""
    resumes = ""
    if outputs.is_unfinished() and not options.restart:
        resumes = " (resuming from the last one)"
    validation = ""
    if examples.validation is not None:
        validation = f", {len(examples.validation):,} validation"
    print(
        f"read   {options.data}{f' in {options.data_dir}' if options.data_dir else ''}:"
        f" {len(examples.train):,} training{validation} and {len(examples.test):,} "
        f"test examples "
        f"of {len(examples.class_names):,} classes\n"
        f"build  {recipe.model} {normalization} batch normalization: input "
        f"{model.input_shape[1:]}, {model.count_params():,} parameters, "
        f"{recipe.dtype}\n"
        f"train  {recipe.epochs:,} epochs of {steps:,} steps of {recipe.batch_size:,} "
        f"examples, learning rate {recipe.learning_rate:g}{decay}, seed "
        f"{recipe.seed}\n"
        f"write  {', '.join(map(str, files))}{exists}, until the end "
        f"{outputs.checkpoints}{resumes}"
    )
