"""Which version of the code measured a result: its sources' hash, and the commit."""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]


def hash_sources(function: Callable[..., Any]) -> str:
    """Return a hash of the source code that a function can run.

    It covers the function's module and every module of the same package that it
    imports, directly or not, also inside functions and through the tables of lazily
    imported names. Comments, docstrings and formatting do not count: they cannot change
    a measurement. Other packages count with their versions; see
    `bn_keras.experiments.parts.versions`.

    Args:
        function: A function at the top level of a module.

    Returns:
        The first 16 hexadecimal digits of a SHA-256 hash.

    Example:
    ```python
    from bn_keras.experiments.probing import covariate_shift, probe
    from bn_keras.experiments.sources import hash_sources

    assert hash_sources(probe) == hash_sources(covariate_shift)  # one module
    ```
    """
    return _hash_module(function.__module__)


def is_current(sources: Mapping[str, str] | None) -> bool:
    """Return whether a result was measured by the code as it is now.

    Args:
        sources: What the result holds: a dict from the module of each function to the
            hash of its sources. None, of a result without them, is not current.
    """
    return bool(sources) and all(
        _hash_module(module) == value for module, value in sources.items()
    )


@cache
def commit() -> str | None:
    """Return the short name of the checkout's commit, or None outside a checkout.

    A `+` follows it if files of the package differ from the commit.
    """
    try:
        name, changes = (
            subprocess.run(
                ["git", "-C", str(_PACKAGE), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "--short=10", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", "."),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return name + ("+" if changes else "")


# Once per process: the modules in memory are those of the first use, also if somebody
# edits the files during a run of hours.
@cache
def _hash_module(name):
    seen, queue = {}, [(name, None)]
    while queue:
        module, wanted = queue.pop()
        path = _find(module)
        if path is None or (module, wanted) in seen:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seen[module, wanted] = ast.dump(_strip_docstrings(tree))
        queue += _imports(tree, path.name == "__init__.py", wanted)
    # A package is read once for each name that is taken from it.
    code = {module: dump for (module, _), dump in seen.items()}
    return hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:16]


def _find(module):
    """Return the file of a module of this package, or of a script beside it, or None.

    Looking at the files imports nothing: a parent package may be lazy.
    """
    first, *rest = module.split(".")
    if first != _PACKAGE.name:
        # A module of the user's, or of a test: it alone, without what it imports.
        file = getattr(sys.modules.get(module), "__file__", None)
        return Path(file) if file and Path(file).suffix == ".py" else None
    path = _PACKAGE.joinpath(*rest)
    for candidate in (path.with_suffix(".py") if rest else path, path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(tree, lazy, wanted) -> Iterator[tuple[str, str | None]]:
    """Yield the modules of this package that a module names, and the name it takes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if _find(submodule):
                    yield submodule, None
                else:
                    yield node.module, alias.name
        elif isinstance(node, ast.Dict) and lazy:
            # The table of a lazy package: only the module of the name that is taken.
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == wanted:
                    yield from _named_module(value)
        elif isinstance(node, ast.Constant) and not lazy:
            yield from _named_module(node)


def _named_module(node):
    value = getattr(node, "value", None)
    if isinstance(value, str) and "." in value and _ours(value) and _find(value):
        yield value, None


def _ours(module):
    return module.split(".")[0] == _PACKAGE.name


def _strip_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree
