"""The laws of the source tree: imports go strictly down, and stay where they belong."""

import ast
import os
import subprocess
import sys

from paths import ROOT

PACKAGES = {
    "bn_keras": ROOT / "bn_keras",
    "bn_keras_serving": ROOT / "serving" / "bn_keras_serving",
}
# Its modules are imported one by one: the client may have some of them only.
COMMON = "bn_keras_serving.common"
# The level of each module or package directly below the two; imports go to lower
# levels only. A package is one unit: its modules import one another.
LEVELS = {
    "bn_keras.atomic_files": 0,
    "bn_keras.devices": 0,
    "bn_keras.errors": 0,
    "bn_keras.tables": 0,
    "bn_keras.images": 0,
    "bn_keras.keras_graph": 0,
    "bn_keras.layer": 0,
    "bn_keras.lazy_names": 0,
    "bn_keras.registration": 1,
    "bn_keras.data": 1,
    "bn_keras.folding": 1,
    "bn_keras.models": 1,
    "bn_keras.population": 1,
    "bn_keras.quantization": 1,
    "bn_keras.replacement": 2,
    "bn_keras.diagnosis": 2,
    "bn_keras.evaluation": 2,
    "bn_keras.export": 2,
    "bn_keras.training": 2,
    "bn_keras.experiments": 3,
    "bn_keras.cli": 4,
    "bn_keras.__main__": 5,
    "bn_keras_serving.client": 1,
    "bn_keras_serving.common": 0,
    "bn_keras_serving.configuration": 1,
    "bn_keras_serving.models": 2,
    "bn_keras_serving.servable": 2,
    "bn_keras_serving.dispatch": 3,
    "bn_keras_serving.grpc_api": 4,
    "bn_keras_serving.rest": 4,
    "bn_keras_serving.server": 5,
}
# Where the library may import TensorFlow, inside a function. It also runs on JAX.
MAY_IMPORT_TENSORFLOW = {
    "bn_keras.cli",
    "bn_keras.data",
    "bn_keras.devices",
    "bn_keras.evaluation",
    "bn_keras.experiments",
    "bn_keras.export",
    "bn_keras.images",
    "bn_keras.layer",
    "bn_keras.models",
    "bn_keras.quantization",
    "bn_keras.training",
}
MAY_IMPORT_SERVING = {"bn_keras.cli"}
# What the client may import beside the standard library; rich only inside a function,
# since a client without a progress bar does not need it.
CLIENT_IMPORTS = {
    *("numpy", "grpc", "google", "bn_keras_serving.client"),
    f"{COMMON}.messages",
}
OPTIONAL_CLIENT_IMPORTS = {"rich"}
MAY_PLOT = {
    "bn_keras.diagnosis",
    *("bn_keras.cli", "bn_keras.evaluation", "bn_keras.experiments"),
    "bn_keras.quantization",
}


def imported_names():
    """Yield `(importing module, level-1 unit, imported name, at the top?)`."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts == ("__init__",):  # names what is public, of every level
                continue
            module, unit = ".".join((package, *parts)), f"{package}.{parts[0]}"
            tree = ast.parse(path.read_text(), str(path))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{module}: a relative import"
                    names = [node.module or ""]
                    if node.module in PACKAGES or node.module == COMMON:
                        names = [f"{node.module}.{alias.name}" for alias in node.names]
                else:
                    continue
                for name in names:
                    yield module, unit, name, node in tree.body


def test_every_module_has_a_level_and_every_level_a_module():
    assert {unit for _, unit, _, _ in imported_names()} <= set(LEVELS)
    for unit in LEVELS:
        package, name = unit.split(".")
        path = PACKAGES[package] / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), unit


def test_every_import_goes_strictly_down():
    offenders = []
    for module, unit, name, _ in imported_names():
        target = ".".join(name.split(".")[:2])
        if target.split(".")[0] not in PACKAGES or target == unit:
            continue
        if target not in LEVELS:  # a name of the package's public face, above the rest
            allowed = LEVELS[unit] >= LEVELS["bn_keras.cli"]
        elif target.split(".")[0] == unit.split(".")[0]:
            allowed = LEVELS[target] < LEVELS[unit]
        else:  # the other package: the next test
            allowed = True
        if not allowed:
            offenders.append((module, name))
    assert offenders == []


def test_the_library_and_the_server_do_not_import_each_other():
    offenders = [
        (module, name)
        for module, unit, name, _ in imported_names()
        if name.split(".")[0] in PACKAGES
        and name.split(".")[0] != unit.split(".")[0]
        and unit not in MAY_IMPORT_SERVING
    ]
    assert offenders == []


def test_the_library_imports_tensorflow_and_matplotlib_only_where_they_are_used():
    offenders = []
    for module, unit, name, at_the_top in imported_names():
        package = name.split(".")[0]
        if not unit.startswith("bn_keras."):
            continue
        may_import = {"tensorflow": MAY_IMPORT_TENSORFLOW, "matplotlib": MAY_PLOT}
        if package in may_import and (at_the_top or unit not in may_import[package]):
            offenders.append((module, name))
    assert offenders == []


def test_the_client_imports_no_tensorflow():
    offenders = []
    for module, unit, name, at_the_top in imported_names():
        package = name.split(".")[0]
        if package == "bn_keras_serving":
            depth = 3 if name.startswith(COMMON) else 2
            package = ".".join(name.split(".")[:depth])
        allowed = CLIENT_IMPORTS | sys.stdlib_module_names
        if not at_the_top:
            allowed |= OPTIONAL_CLIENT_IMPORTS
        if unit == "bn_keras_serving.client" and package not in allowed:
            offenders.append((module, name))
    assert offenders == []


def test_importing_the_library_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys, bn_keras\n"
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])\n"
        "bn_keras.BatchNormalization, bn_keras.models\n"
        "print([name for name in ('tensorflow', 'bn_keras_serving', 'bn_keras.data',"
        " 'bn_keras.experiments') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["[]", "[]"]


def test_both_packages_tell_type_checkers_that_they_are_typed():
    for folder in PACKAGES.values():
        assert (folder / "py.typed").is_file()
