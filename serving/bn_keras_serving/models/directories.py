"""Version directories on disk, and the choice of versions by a policy."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

Policy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy


def versions_on_disk(directory: Path) -> dict[int, Path]:
    """Return the directories whose name is an integer; `00000123` is version 123.

    Raises:
        OSError: If the directory does not exist or cannot be read.
    """
    return {
        int(path.name): path
        for path in sorted(directory.iterdir())
        if re.fullmatch("[0-9]+", path.name)
        and int(path.name) < 2**63
        and path.is_dir()
    }


def aspired_versions(policy: Policy, on_disk: dict[int, Path]) -> dict[int, Path]:
    """Return the versions that a policy selects; an empty one selects the latest."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return on_disk
    if choice == "specific":
        selected = set(policy.specific.versions)
    else:
        selected = set(sorted(on_disk)[-max(1, policy.latest.num_versions) :])
    return {version: path for version, path in on_disk.items() if version in selected}


def policy_problem(
    directory: Path, policy: Policy, on_disk: dict[int, Path]
) -> str | None:
    """Describe which versions of a policy are missing on disk; None without any."""
    if not aspired_versions(policy, on_disk):
        return explain_missing_versions(directory)
    missing = set(policy.specific.versions).difference(on_disk)
    return f"{directory} must contain {format_versions(missing)}." if missing else None


def explain_missing_versions(directory: Path) -> str:
    """Return what a directory contains instead of the requested versions."""
    hint = "Export a model to it first."
    try:
        if (directory / "saved_model.pb").exists():
            hint = "Give the parent directory of this version."
        if not directory.exists():
            contents = "which does not exist"
        elif not directory.is_dir():
            contents = "which is a file"
            hint = "Give the directory that contains the versions."
        elif versions := versions_on_disk(directory):
            contents = f"which contains {format_versions(versions)}"
            hint = "Select one of those in the policy."
        else:
            contents = "which contains no version"
    except OSError as error:
        contents = f"which cannot be read ({error.strerror})"
        hint = "Grant read permission."
    return (
        "A model's directory must contain numbered versions, such as "
        f"{directory / '1' / 'saved_model.pb'}. Received: {directory}, {contents}. "
        f"{hint}"
    )


def format_versions(versions: Collection[int]) -> str:
    """Return `version 2` or `versions 2, 3`."""
    plural = "s" if len(versions) > 1 else ""
    return f"version{plural} {', '.join(map(str, sorted(versions)))}"
