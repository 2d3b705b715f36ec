"""Read a directory of numbered versions, and choose by a policy among them.

Knows nothing of loading.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

Policy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy


def versions_on_disk(directory: Path) -> dict[int, Path]:
    """Return the directories named by an integer; `00000123` is 123.

    Raises:
        OSError: The directory cannot be read, or is not there.
    """
    return {
        int(path.name): path
        for path in sorted(directory.iterdir())
        if re.fullmatch("[0-9]+", path.name)
        and int(path.name) < 2**63
        and path.is_dir()
    }


def aspired(policy: Policy, found: dict[int, Path]) -> dict[int, Path]:
    """Choose the versions that a policy asks for; an empty one asks for the latest."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        wanted = set(policy.specific.versions)
    else:
        wanted = set(sorted(found)[-max(1, policy.latest.num_versions) :])
    return {version: path for version, path in found.items() if version in wanted}


def problem_of(directory: Path, policy: Policy, found: dict[int, Path]) -> str | None:
    """Say what a policy asks for in vain, if it does."""
    if not aspired(policy, found):
        return why_nothing_is_aspired(directory)
    missing = set(policy.specific.versions).difference(found)
    return f"Expected {listed(missing)} in {directory}." if missing else None


def why_nothing_is_aspired(directory: Path) -> str:
    """Say what a directory has instead of the versions that are asked for."""
    mend = "export a model there first"
    try:
        if (directory / "saved_model.pb").exists():
            mend = "give the directory above this version"
        if not directory.exists():
            found = "which is not there"
        elif not directory.is_dir():
            found, mend = "which is a file", "give the directory of the versions"
        elif versions := versions_on_disk(directory):
            found, mend = f"with {listed(versions)}", "ask for those in its policy"
        else:
            found = "without any"
    except OSError as error:
        found, mend = f"which cannot be read ({error.strerror})", "permit it"
    return (
        "Expected a directory of numbered versions, such as "
        f"{directory / '1' / 'saved_model.pb'}. Received: {directory} {found}; {mend}."
    )


def listed(versions: Collection[int]) -> str:
    """Write `version 2`, or `versions 2, 3`."""
    plural = "s" if len(versions) > 1 else ""
    return f"version{plural} {', '.join(map(str, sorted(versions)))}"
