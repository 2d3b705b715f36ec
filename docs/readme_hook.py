"""Prepare README for the package index, as a hook of the build.

A package index shows README without the repository around it, so relative links and
pictures must become absolute. They do once `project.urls` names a repository.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<address>[^)\s:]+)\)")


def absolute_links(text, repository):
    """Return Markdown whose relative links lead into a repository.

    Args:
        text: The Markdown.
        repository: The address of the repository's page.
    """

    def rewrite(link):
        kind = "raw" if link["picture"] else "blob"
        address = f"{repository.rstrip('/')}/{kind}/HEAD/{link['address']}"
        return f"{link['picture']}[{link['words']}]({address})"

    return LINK.sub(rewrite, text)


class ReadmeHook(MetadataHookInterface):
    """Sets `project.readme`."""

    def update(self, metadata):
        """Set the README in the package's metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        if repository:
            text = absolute_links(text, repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
