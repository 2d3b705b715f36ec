"""What an experiment declares, and the one way to run it."""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bn_keras.experiments.parts import OnPart, Part, measure
from bn_keras.experiments.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PlanT = TypeVar("PlanT")
ResultT = TypeVar("ResultT")
# A generator that yields the parts of each round and receives the results of all parts
# so far, as a dict from the name of a part to what its function returned.
Rounds = Generator[Sequence[Part], dict[str, Any], ResultT]


@dataclass(frozen=True)
class Experiment(Generic[PlanT]):
    """An experiment of a paper: its parts, and what is made of their results.

    Args:
        name: The name on the command line.
        title: The title of its table and figure.
        plans: A dict from the name of a scale to the sizes of that scale.
        rounds: Called as `rounds(plan)`. It returns a generator that yields the parts
            of one round after another, is sent the results so far, and returns the
            measurements: a dict that JSON can represent. Most experiments have one
            round; a second one can depend on the results of the first.
        rows: Called as `rows(measurements)`. It compares the paper's claims with what
            was measured.
        plot: Called as `plot(measurements)`. It returns the figure.
        setup: Called as `setup(plan)`. It returns the set-up as a dict, in the words of
            `bn_keras.experiments.facts`, by which it is compared with the paper's.
        differences: A dict from a key of the set-up in which the scale "default"
            differs from the paper to the reason.

    Example:
    ```python
    from bn_keras.experiments.experiment import Experiment, measure_seeds
    from bn_keras.experiments.rows import Row, mean_and_range

    def draw(directories, folder, sides, seed):
        return 1 + seed % sides

    def rounds(sides):
        throws = yield from measure_seeds(3, {"die": (draw, {"sides": sides})})
        return {"throws": throws["die"]}

    def rows(measurements):
        return [Row("number thrown", "-", mean_and_range(measurements["throws"]))]

    dice = Experiment("dice", "Dice", {"full": 6}, rounds, rows, None)
    assert dice.run(scale="full")["throws"] == [1, 2, 3]
    ```
    """

    name: str
    title: str
    plans: Mapping[str, PlanT]
    rounds: Callable[[PlanT], Rounds[dict[str, Any]]]
    rows: Callable[[Mapping[str, Any]], list[Row]]
    plot: Callable[[Mapping[str, Any]], "Figure"]
    setup: Callable[[PlanT], Mapping[str, Any]] | None = None
    differences: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        workdir: str | os.PathLike[str] | None = None,
        scale: str = "default",
        directories: Mapping[str, Any] | None = None,
        jobs: int = 1,
        on_part: OnPart | None = None,
    ) -> dict[str, Any]:
        """Measure all parts of a scale, and return what `rows` and `plot` take.

        Args:
            workdir: A folder for the result of each part, so that an interrupted run
                can be resumed. With None nothing is kept.
            scale: A key of `plans`.
            directories: A dict from the name of a data set to the folder of its files.
                The others are bundled or downloaded.
            jobs: The number of processes that measure parts at the same time.
            on_part: Called as `on_part(name, done, total)` after each part, and with an
                empty name at the beginning of each round.

        Returns:
            The measurements, with `"scale"`, the `"plan"` as JSON has it, and the
            parts' total of `"seconds"`; and `"sources"` and `"commits"`, as
            `bn_keras.experiments.parts.Measured` has them.

        Raises:
            ValueError: If the scale is unknown.
        """
        if scale not in self.plans:
            raise ValueError(
                f"`scale` must be one of {', '.join(self.plans)}. Received: "
                f"scale={scale!r}"
            )
        results, seconds, sources, commits = {}, 0.0, {}, set()
        rounds = self.rounds(self.plans[scale])
        parts = next(rounds)
        while True:
            # Two names of a part may mean one training, and a round may ask again for a
            # part of an earlier round: each is measured, and its time counted, once.
            new = {part.name: part for part in parts if part.name not in results}
            measured = measure(list(new.values()), workdir, directories, jobs, on_part)
            results |= measured.results
            seconds += measured.seconds
            sources |= measured.sources
            commits |= {*measured.commits}
            try:
                parts = rounds.send(results)
            except StopIteration as end:
                return {
                    "scale": scale,
                    "plan": plan_as_json(self.plans[scale]),
                    "seconds": seconds,
                    "sources": sources,
                    "commits": sorted(commits),
                    **end.value,
                }


def plan_as_json(plan: Any) -> Any:
    """Return the sizes of a scale as a result file has them.

    Args:
        plan: A named tuple, or what JSON can represent.
    """
    return json.loads(json.dumps(plan._asdict() if hasattr(plan, "_asdict") else plan))


def measure_seeds(
    seeds: int, trainings: Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]]
) -> Rounds[dict[str, list[Any]]]:
    """Measure each of several trainings with each seed, as one round.

    Args:
        seeds: The number of seeds, from 0 upwards.
        trainings: A dict from a name to a function and its arguments. The function also
            receives the argument `seed`; see `bn_keras.experiments.parts.Part`.

    Returns:
        A generator for `yield from`. It returns a dict from each name to a list of what
        the function returned for each seed.
    """
    parts = {
        # The first seed of all trainings comes first: an interrupted run holds a whole
        # comparison as early as possible.
        (name, seed): Part(f"{name}-seed{seed}", function, {**arguments, "seed": seed})
        for seed in range(seeds)
        for name, (function, arguments) in trainings.items()
    }
    results = yield list(parts.values())
    return {
        name: [results[parts[name, seed].name] for seed in range(seeds)]
        for name in trainings
    }
