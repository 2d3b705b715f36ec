"""The floors of the house: imports go strictly down."""

import ast
import os
import subprocess
import sys

import pytest
from paths import ROOT

# A module's floor; a package (models, folding, exporter, ...) is one room.
FLOORS = {
    "bn_keras.atomic_files": 0,
    "bn_keras.layer.axes": 0,
    "bn_keras.layer.moments": 0,
    "bn_keras.layer.kernels": 0,
    "bn_keras.layer.replicas": 0,
    "bn_keras.layer.renormalization": 0,
    "bn_keras.cli.argument_types": 0,
    "bn_keras.errors": 0,
    "bn_keras.images.preprocessing": 0,
    "bn_keras.images.crops": 0,
    "bn_keras.layer.batch_normalization": 1,
    "bn_keras.training.recipes": 1,
    "bn_keras.images.pixels": 1,
    "bn_keras.images.augmentation": 2,
    "bn_keras.models": 2,
    "bn_keras.training.run_record": 2,
    "bn_keras.data": 3,
    "bn_keras.cli.user_files": 3,
    "bn_keras.population": 3,
    "bn_keras.replacement": 3,
    "bn_keras.folding": 3,
    "bn_keras_serving.common.errors": 0,
    "bn_keras_serving.common.limits": 0,
    "bn_keras_serving.grpc_api.addresses": 0,
    "bn_keras_serving.grpc_api.health": 0,
    "bn_keras_serving.common.tensors": 0,
    "bn_keras_serving.configuration": 1,
    "bn_keras_serving.common.metrics": 1,
    "bn_keras_serving.servable.signature": 1,
    "bn_keras_serving.dispatch.error_mapping": 1,
    "bn_keras_serving.servable.batching": 2,
    "bn_keras_serving.models": 2,
    "bn_keras_serving.servable.servable": 3,
    "bn_keras_serving.dispatch.handlers": 4,
    "bn_keras_serving.client": 5,
    "bn_keras_serving.dispatch.dispatcher": 5,
    "bn_keras_serving.dispatch.warmup": 5,
    "bn_keras.training": 4,
    "bn_keras.evaluation": 4,
    "bn_keras.export": 4,
    "bn_keras.experiments": 5,
    "bn_keras_serving.rest": 6,
    "bn_keras_serving.grpc_api.services": 6,
    "bn_keras.cli.demo": 6,
    "bn_keras_serving.server": 7,
    "bn_keras.cli": 7,
    "bn_keras.__main__": 8,
}
# Rooms of one floor in the order in which they may see one another.
WITHIN_A_FLOOR = {
    ("bn_keras.layer.kernels", "bn_keras.layer.moments"),
    ("bn_keras.layer.replicas", "bn_keras.layer.moments"),
    ("bn_keras.replacement", "bn_keras.folding"),
}
MAY_START_SERVING = {"bn_keras.cli", "bn_keras.cli.demo"}
MAY_IMPORT_TENSORFLOW = {
    "bn_keras.layer.kernels",
    "bn_keras.layer.replicas",
    "bn_keras.images.pixels",
    "bn_keras.images.augmentation",
    "bn_keras.data",
    "bn_keras.training",
    "bn_keras.evaluation",
    "bn_keras.errors",
    "bn_keras.experiments",
    "bn_keras.export",
    "bn_keras.cli",
}


def rooms():
    """`(room, file)` for every module of both packages but their front doors."""
    for package in ("bn_keras", "serving"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[1:] != ("__init__",):
                yield ".".join(parts[:2]), path


def imports(path):
    """Every imported module of a file, with whether it stands at its top level."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            names = [node.module or ""]
            if node.module in ("bn_keras", "serving"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in tree.body


CASES = [pytest.param(*case, id=str(case[1].relative_to(ROOT))) for case in rooms()]


@pytest.mark.parametrize(("room", "path"), CASES)
def test_every_import_goes_strictly_down(room, path):
    assert room in FLOORS, f"{room} has no floor: give it one here and in README"
    for name, _ in imports(path):
        target = ".".join(name.split(".")[:2])
        if target not in FLOORS and target.startswith(("bn_keras.", "serving.")):
            # A name from a package's front door, which stands above its rooms.
            assert FLOORS[room] >= 5, f"{room} imports {name} from the front door"
        if target not in FLOORS or target == room or (room, target) in WITHIN_A_FLOOR:
            continue
        assert FLOORS[target] < FLOORS[room], f"{room} imports {target}"


@pytest.mark.parametrize(("room", "path"), CASES)
def test_the_library_and_serving_share_a_directory_not_an_import(room, path):
    if room in MAY_START_SERVING:
        return
    other = "serving" if room.startswith("bn_keras") else "bn_keras"
    assert not [name for name, _ in imports(path) if name.split(".")[0] == other]


@pytest.mark.parametrize(("room", "path"), CASES)
def test_tensorflow_is_imported_only_where_it_is_needed(room, path):
    if room.startswith("serving"):
        return
    found = [
        (name, top) for name, top in imports(path) if name.split(".")[0] == "tensorflow"
    ]
    assert not found or room in MAY_IMPORT_TENSORFLOW
    assert not [name for name, top in found if top], "import it inside the function"


@pytest.mark.parametrize(("room", "path"), CASES)
def test_plots_and_data_sets_are_imported_only_where_they_are_made(room, path):
    if room.startswith(("bn_keras.data", "bn_keras.cli.demo", "bn_keras.experiments")):
        return
    if path.name == "figures.py":  # of the evaluation
        return
    assert not {name.split(".")[0] for name, _ in imports(path)} & {
        "matplotlib",
        "sklearn",
    }


def test_every_floor_names_a_room_that_stands():
    standing = {room for room, _ in rooms()}
    assert set(FLOORS) <= standing


def test_the_library_imports_on_jax_without_tensorflow_data_or_serving():
    code = (
        "import sys, bn_keras;"
        "print([name for name in ('tensorflow', 'serving', 'bn_keras.data',"
        " 'bn_keras.experiments') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_both_packages_tell_type_checkers_that_they_are_typed():
    for package in ("bn_keras", "serving"):
        assert (ROOT / package / "py.typed").is_file()
