"""Build the documentation site: `python -m docs.build [FOLDER]`.

Copies the pages to `build/docs`, adds those that are written from elsewhere (the
changelog, the command line's help) and the files that pages link to, and runs Zensical
in strict mode: a link or an anchor that leads nowhere ends the build. The site is in
`build/site` afterwards, and in FOLDER if one is given.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
# Pages that stand at the root of the repository, where people look for them.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "serving/deploy/README.md": "how-to/deploy.md",
}
SUFFIXES = (".md", ".svg", ".png", ".css")
# A Markdown link or picture: its words in brackets, its address in parentheses.
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def sources():
    """Return a dict from each page's path on the site to its file."""
    pages = {
        path.relative_to(DOCS).as_posix(): path
        for path in DOCS.rglob("*")
        if path.suffix in SUFFIXES
    }
    return pages | {page: ROOT / name for name, page in ROOT_PAGES.items()}


def site_address(address, file, page):
    """Return where a relative link of a page leads on the site.

    A file that is not a page is copied to the site.

    Args:
        address: The link, relative to its file.
        file: The file that holds it.
        page: The path of its page on the site.
    """
    name, hash_mark, anchor = address.partition("#")
    if not name or ":" in name:
        return address
    target = (file.parent / name).resolve()
    if not target.exists():
        raise FileNotFoundError(f"{file}: no such file: {address}")
    if target.is_dir():
        raise IsADirectoryError(f"{file}: a link must lead to a file: {address}")
    pages = {source.resolve(): place for place, source in sources().items()}
    if (place := pages.get(target)) is None:
        place = f"files/{target.relative_to(ROOT).as_posix()}"
        (BUILD / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, BUILD / place)
    return os.path.relpath(place, Path(page).parent) + hash_mark + anchor


def rewrite_links(text, file, page):
    """Return a page with its links as they are on the site, and code as it is."""

    def rewrite(link):
        return link[1] + site_address(link[2], file, page) + link[3]

    parts, start = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(rewrite, text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, LINK.sub(rewrite, text[start:])])


def command_line_page():
    """Return the page with the help of every command."""
    os.environ["COLUMNS"] = "88"
    from bn_keras.cli.command_line import main

    def help_of(*command):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*command, "--help"])
        return shown.getvalue().rstrip()

    overview = help_of()
    commands = re.findall(r"^ {4}([a-z]+)\b", overview, re.MULTILINE)
    sections = [f"# Command line\n\n```text\n{overview}\n```\n"]
    for name in commands:
        command = ("data", "convert") if name == "data" else (name,)
        words = " ".join(command)
        sections.append(f"## {words}\n\n```text\n{help_of(*command)}\n```\n")
    return "\n".join(sections)


def assemble():
    """Write everything that the site is built from to `build/docs`."""
    shutil.rmtree(BUILD, ignore_errors=True)
    for page, file in sources().items():
        place = BUILD / page
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            text = file.read_text(encoding="utf-8")
            place.write_text(rewrite_links(text, file, page), encoding="utf-8")
        else:
            shutil.copy(file, place)
    page = BUILD / "reference" / "command-line.md"
    page.write_text(command_line_page(), encoding="utf-8")


def main():
    """Assemble and build; return the exit status."""
    assemble()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode == 0 and len(sys.argv) > 1:
        shutil.copytree(SITE, sys.argv[1], dirs_exist_ok=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
