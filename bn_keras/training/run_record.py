"""The record of a training run, a JSON file beside its model."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bn_keras.atomic_files import atomic_write
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.tables import html_table
from bn_keras.training.recipes import Recipe

_KEYS = ("recipe", "data", "examples", "class_names", "preprocessing")


class Run(NamedTuple):
    """The record of a training run.

    Args:
        recipe: The `Recipe`.
        data: The name of the data set.
        examples: The number of training examples.
        class_names: The name of each output of the model.
        preprocessing: The `Preprocessing` of the model's inputs.
        fingerprint: What tells the training examples from others, "" if unknown.
    """

    recipe: Recipe
    data: str
    examples: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    fingerprint: str = ""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON, atomically.

        Args:
            path: The file.
        """
        facts = {
            "recipe": asdict(self.recipe),
            "data": self.data,
            "examples": self.examples,
            "class_names": self.class_names,
            "preprocessing": asdict(self.preprocessing),
            "fingerprint": self.fingerprint,
        }
        with atomic_write(path) as temporary_path:
            temporary_path.write_text(json.dumps(facts, indent=2) + "\n")

    def differences(self, other: "Run") -> list[str]:
        """Return what differs between two runs, except for the number of epochs.

        Args:
            other: The other `Run`.

        Returns:
            A list of texts `name: value, other value`.
        """
        # More epochs continue the same run, so they are no difference.
        own, others = asdict(self.recipe), asdict(other.recipe)
        del own["epochs"], others["epochs"]
        # With fingerprints, the same examples may be in a folder of another name.
        have_fingerprints = bool(self.fingerprint and other.fingerprint)
        names = ("class_names", "preprocessing") if have_fingerprints else _KEYS[1:]
        for name in names:
            own[name], others[name] = getattr(self, name), getattr(other, name)
        for facts in (own, others):
            preprocessing = asdict(facts.pop("preprocessing")).items()
            facts |= {f"preprocessing.{key}": value for key, value in preprocessing}
        differences = [
            f"{name}: {value}, {others[name]}"
            for name, value in own.items()
            if value != others[name]
        ]
        if have_fingerprints and self.fingerprint != other.fingerprint:
            differences.append(
                "training examples: others by their names, sizes or labels"
            )
        return differences

    def __repr__(self) -> str:
        return (
            f"Run(recipe={self.recipe.name!r}, data={self.data!r}, examples="
            f"{self.examples}, classes={len(self.class_names)}, preprocessing="
            f"{self.preprocessing})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("recipe", self.recipe),
            ("data", self.data),
            ("training examples", f"{self.examples:,}"),
            ("classes", f"{len(self.class_names):,}"),
            ("preprocessing", self.preprocessing),
        ]
        return html_table(rows, caption=f"Run of {self.recipe.name}")


def read(path: str | os.PathLike[str]) -> Run:
    """Read the record of a run.

    Args:
        path: A file that `Run.write` has written.

    Returns:
        A `Run`.

    Raises:
        ValueError: If the file is not such a record.
        FileNotFoundError: If there is no such file.
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
            facts.get("fingerprint", ""),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the record of a training run ({', '.join(_KEYS)}), as "
            f"bn-keras train writes it. Received: {type(error).__name__}: {error}. "
            "Remove the file, or train again."
        ) from error


def read_for_model(model_path: str | os.PathLike[str]) -> Run | None:
    """Read the record of the run that trained a model, the `.json` file beside it.

    Args:
        model_path: The path of a `.keras` file.

    Returns:
        A `Run`, or `None` if there is no such record.

    Raises:
        ValueError: If the file is not a record of a run.
    """
    path = Path(model_path).with_suffix(".json")
    return read(path) if path.is_file() else None
