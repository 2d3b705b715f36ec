"""What a training run says of itself, in a file beside its model.

Knows recipes and preprocessing; no model, no data and no training.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bn_keras.atomic_files import atomic_write
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.training.recipes import Recipe

_KEYS = ("recipe", "data", "examples", "class_names", "preprocessing")


class Run(NamedTuple):
    """The facts of a run.

    Args:
        recipe: the `Recipe`.
        data: name of the data set.
        examples: number of training examples.
        class_names: one for each output of the model.
        preprocessing: the `Preprocessing` of the model's inputs.
    """

    recipe: Recipe
    data: str
    examples: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    def write(self, path):
        """Write the facts as JSON, whole or not at all.

        Args:
            path: the file.
        """
        facts = {
            "recipe": asdict(self.recipe),
            "data": self.data,
            "examples": self.examples,
            "class_names": self.class_names,
            "preprocessing": asdict(self.preprocessing),
        }
        with atomic_write(path) as temporary_path:
            temporary_path.write_text(json.dumps(facts, indent=2) + "\n")

    def differences(self, other):
        """What is not equal in two runs, but for the number of epochs.

        Args:
            other: a `Run`.

        Returns:
            A list of texts `fact: this, other`.
        """
        ours, theirs = asdict(self.recipe), asdict(other.recipe)
        del ours["epochs"], theirs["epochs"]
        for name in _KEYS[1:]:
            ours[name], theirs[name] = getattr(self, name), getattr(other, name)
        return [
            f"{name}: {value}, {theirs[name]}"
            for name, value in ours.items()
            if value != theirs[name]
        ]


def read(path):
    """The facts of a run.

    Args:
        path: a file that `Run.write` has written.

    Returns:
        A `Run`.

    Raises:
        ValueError: for a file of another content.
        FileNotFoundError: for no file.
    """
    try:
        facts = json.loads(Path(path).read_text())
        recipe = facts["recipe"]
        distortion = recipe["distortion"]
        recipe["preprocessing"] = Preprocessing(**recipe["preprocessing"])
        recipe["distortion"] = (
            None if distortion is None else Augmentation(**distortion)
        )
        return Run(
            Recipe(**recipe),
            facts["data"],
            facts["examples"],
            tuple(facts["class_names"]),
            Preprocessing(**facts["preprocessing"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the facts of a training run ({', '.join(_KEYS)}), as "
            f"bn-keras train writes them. Received: {type(error).__name__}: {error}; "
            "remove the file, or train anew"
        ) from error


def beside(model):
    """The facts of the run that made a model, from the `.json` file beside it.

    Args:
        model: path of a `.keras` file.

    Returns:
        A `Run`, or None where there is no such file.

    Raises:
        ValueError: for a file of another content.
    """
    path = Path(model).with_suffix(".json")
    return read(path) if path.is_file() else None
