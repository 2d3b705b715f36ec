"""The command `demo`.

Knows its options and where its results go; no step of it.
"""

import json
import sys
from pathlib import Path

from bn_keras.cli import argument_types
from bn_keras.cli.command import command, make_folder


def add(commands):
    """Add these commands to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        demo,
        "Train, fold, export, serve and ask a digit classifier; no network needed.",
        "bn-keras demo --workdir bn-keras-demo --json results.json",
    )
    sub.add_argument(
        "--workdir",
        type=argument_types.path,
        default=Path("bn-keras-demo"),
        help="made if missing",
    )
    sub.add_argument(
        "--json",
        type=argument_types.path,
        metavar="FILE",
        help="write the figures there",
    )


def demo(options):
    """Run the demo, write its figures."""
    from bn_keras.atomic_files import atomic_write
    from bn_keras.cli import demo

    if options.json is not None:
        folder = options.json.absolute().parent
        if options.json.is_dir():
            raise ValueError(
                f"--json expects a file. Received: {options.json}, a folder; name a "
                "file in it"
            )
        if not folder.is_dir() and folder != options.workdir.absolute():
            raise ValueError(
                f"--json expects a file in a folder that exists. Received: "
                f"{options.json}; make {folder} first"
            )
    make_folder(options.workdir)
    results, failures = demo.run(options.workdir, command=_command())
    if options.json is not None:
        with atomic_write(options.json) as temporary_path:
            temporary_path.write_text(json.dumps(results, indent=2) + "\n")
    for failure in failures:
        print(f"bn-keras: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _command():
    """The running command as it was typed, for the lines that a user copies."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "bn-keras" else "python -m bn_keras"
