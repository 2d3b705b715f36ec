"""Training beside Keras' `fit` and PyTorch: `python -m benchmarks.training_peers`.

Trains BN-x5 on CIFAR-10 from a folder of 32x32 PNG files, for speed at a quarter of the
width, for accuracy at an eighth. Two questions:

- Images a second, pictures, augmentation and callbacks included. Each contender trains
  in a process of its own, and they take turns epoch by epoch. Keras has its own layer,
  `image_dataset_from_directory`, rescaling and random flips, which is less augmentation
  than the recipe's. PyTorch, where it is installed, trains the same network on one
  random mini-batch in memory.
- Accuracy by step: this package's `train`, and Keras' `fit` with Keras' layer on the
  same initial weights and mini-batches.

Seeds that the file of `--json` already holds are kept.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.timing import provenance
from bn_keras.training.recipes import BN_X5, Recipe

BATCH = BN_X5.batch_size
# The first epoch traces and fills caches; in the last one, others have finished.
WARM_UP, COOL_DOWN = 1, 1


def shrunk_recipe(width: float, epochs: int, seed: int = 0) -> Recipe:
    """Return BN-x5 for 32x32 pixels."""
    preprocessing = replace(BN_X5.preprocessing, size=(32, 32), crop_fraction=1.0)
    return replace(
        BN_X5, width=width, epochs=epochs, seed=seed, preprocessing=preprocessing
    )


def copy_pictures(source: Path, target: Path, train: int, test: int) -> None:
    """Copy some pictures of each class, as an image folder."""
    for split, total in (("train", train), ("test", test)):
        classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
        for folder in classes:
            (target / split / folder.name).mkdir(parents=True)
            for path in islice(sorted(folder.iterdir()), total // len(classes)):
                shutil.copy(path, target / split / folder.name)


class Turn:
    """Lets several trainings take turns epoch by epoch, and times the steps.

    Args:
        mine: A semaphore that is released when it is this training's turn.
        following: That of the training whose turn comes next.
    """

    def __init__(self, mine: Any, following: Any) -> None:
        self.seconds: list[float] = []
        self._mine, self._following = mine, following

    def begin(self) -> None:
        """Wait for the turn, and start the clock."""
        self._mine.acquire()
        self._start = self._end = time.perf_counter()

    def step(self) -> None:
        """Note the end of a step: what follows the last one is not timed."""
        self._end = time.perf_counter()

    def end(self) -> None:
        """Keep the time of the steps, and give the turn away."""
        self.seconds.append(self._end - self._start)
        self._following.release()

    def callback(self) -> Any:
        """Return the Keras callback."""
        import keras

        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs=None: self.begin(),
            on_train_batch_end=lambda batch, logs=None: self.step(),
            on_epoch_end=lambda epoch, logs=None: self.end(),
        )


def train_ours(folder: Path, width: float, epochs: int, turn: Turn) -> None:
    """Train with `bn_keras.training.train`: checkpoints, checks, logs and all."""
    from bn_keras import data
    from bn_keras.training import train

    train(
        shrunk_recipe(width, epochs),
        data.image_folder(folder),
        folder / "run",
        [turn.callback()],
    )


def fit_keras(folder: Path, width: float, epochs: int, turn: Turn) -> None:
    """Train with Keras' `fit`, Keras' layer and Keras' reader of folders."""
    import keras
    import tensorflow as tf

    images: Any = keras.utils.image_dataset_from_directory(
        folder / "train", image_size=(32, 32), batch_size=BATCH
    )
    model: Any = keras_model(folder, width)
    batches = images.map(
        lambda x, y: (tf.image.random_flip_left_right(x) / 127.5 - 1, y),
        tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[turn.callback()])


def keras_model(folder: Path, width: float, seed: int = 0) -> Any:
    """Return the compiled network of the recipe, with Keras' layer."""
    import keras

    from bn_keras import data, replace_batch_normalization
    from bn_keras.training import build

    model = build(shrunk_recipe(width, 1, seed), data.image_folder(folder))
    return replace_batch_normalization(model, keras.layers.BatchNormalization)


def train_pytorch(folder: Path, width: float, epochs: int, turn: Turn) -> None:
    """Train the same network in PyTorch, on one random mini-batch in memory."""
    import torch  # pyright: ignore[reportMissingImports]

    # The optimizer imports it. After TensorFlow, which contains LLVM too, it crashes.
    import torch._dynamo  # pyright: ignore[reportMissingImports]

    from benchmarks.torch_network import network_of

    torch.set_num_threads(os.cpu_count() or 1)
    count = sum(1 for _ in (folder / "train").rglob("*.png"))
    network = network_of(keras_model(folder, width))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), BN_X5.learning_rate, weight_decay=2 * BN_X5.l2
    )
    x = torch.rand(BATCH, 3, 32, 32).to(memory_format=torch.channels_last) * 2 - 1
    y = torch.arange(BATCH) % 10
    for _ in range(epochs):
        turn.begin()
        for _ in range(count // BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            turn.step()
        turn.end()


CONTENDERS: dict[str, Callable[[Path, float, int, Turn], None]] = {
    "bn_keras": train_ours,
    "Keras": fit_keras,
    "PyTorch": train_pytorch,
}


def _contend(name, folder, width, epochs, mine, following, answer):
    turn = Turn(mine, following)
    CONTENDERS[name](folder, width, epochs, turn)
    answer.send(turn.seconds)


def measure_speed(
    source: Path, names: list[str], width: float, steps: int, rounds: int
) -> dict[str, Any]:
    """Return the images a second of each contender, and all epochs' seconds."""
    context = multiprocessing.get_context("spawn")
    turns = [context.Semaphore(int(index == 0)) for index in range(len(names))]
    epochs = WARM_UP + rounds + COOL_DOWN
    processes, answers, seconds = [], {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for index, name in enumerate(names):
                folder = Path(scratch, name)
                copy_pictures(source, folder, BATCH * steps, 100)
                (folder / "run").mkdir()
                answer, sender = context.Pipe(duplex=False)
                ring = turns[index], turns[(index + 1) % len(names)]
                process = context.Process(
                    target=_contend, args=(name, folder, width, epochs, *ring, sender)
                )
                process.start()
                # The child's end alone stays open, so that its death ends the wait.
                sender.close()
                processes.append(process)
                answers[answer] = name
            while answers:
                ready: Any
                for ready in multiprocessing.connection.wait([*answers]):
                    name = answers.pop(ready)
                    try:
                        seconds[name] = ready.recv()[WARM_UP:-COOL_DOWN]
                    except EOFError:
                        raise RuntimeError(f"the training of {name} failed") from None
        finally:
            for process in processes:
                process.kill()
                process.join()
    # The median, because an epoch in which the machine did something else counts less.
    speeds = {
        name: [BATCH * steps / value for value in seconds[name]] for name in names
    }
    return {
        name: {
            "images a second": round(statistics.median(values), 1),
            "epochs": [round(value, 1) for value in values],
        }
        for name, values in speeds.items()
    }


def measure_accuracy(folder: Path, width: float, seed: int) -> dict[str, Any]:
    """Train both on the same mini-batches of an epoch, and test on all test pictures.

    Returns:
        For `"bn_keras"` and `"Keras"` the `"training"` accuracy of the epoch's
        mini-batches and the `"test"` accuracy with its 95% `"interval"`; the `"seed"`
        and the number of `"steps"`.
    """
    from bn_keras import data
    from bn_keras.evaluation import evaluate
    from bn_keras.training import preprocessing_for, train

    recipe, examples = shrunk_recipe(width, 1, seed), data.image_folder(folder)
    preprocessing = preprocessing_for(recipe, examples)
    model, history = train(recipe, examples, verbose=0)
    other = keras_model(folder, width, seed)
    steps = recipe.steps_per_epoch(len(examples.train))
    batches: Any = examples.train.batches(
        BATCH, data.Shuffling(seed), preprocessing, recipe.distortion, epochs=1
    )
    result = other.fit(batches.take(steps), verbose=0, shuffle=False)
    row: dict[str, Any] = {"seed": seed, "steps": steps}
    for name, network, curve in (
        ("bn_keras", model, history),
        ("Keras", other, result.history),
    ):
        evaluation = evaluate(network, examples.test, preprocessing=preprocessing)
        row[name] = {
            "training": round(float(curve["accuracy"][-1]), 4),
            "test": round(evaluation.top1, 4),
            "interval": [round(x, 4) for x in evaluation.top1_interval],
        }
    return row


def main() -> None:
    """Print the results, and write them as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data-dir",
        type=Path,
        required=True,
        help="CIFAR-10 as PNG files, in train/CLASS and test/CLASS",
    )
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=100, help="of an epoch, for speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--accuracy-width", type=float, default=0.125)
    parser.add_argument("--accuracy-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"speed": None, "accuracy": []}
    if options.json and options.json.exists():
        record |= json.loads(options.json.read_text())
    record |= provenance("benchmarks.training_peers")
    record |= {"width": options.width, "accuracy width": options.accuracy_width}

    def save():
        if options.json:
            options.json.write_text(json.dumps(record, indent=2) + "\n")

    if record["speed"] is None:
        names = [name for name in CONTENDERS if name != "PyTorch"]
        names += ["PyTorch"] if "torch" in record["versions"] else []
        record["speed"] = measure_speed(
            options.data_dir, names, options.width, options.steps, options.rounds
        )
        save()
    print(json.dumps(record["speed"]), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "cifar10")
        copy_pictures(options.data_dir, folder, BATCH * options.accuracy_steps, 10_000)
        for seed in range(len(record["accuracy"]), options.seeds):
            row = measure_accuracy(folder, options.accuracy_width, seed)
            record["accuracy"].append(row)
            print(row, flush=True)
            save()


if __name__ == "__main__":
    main()
