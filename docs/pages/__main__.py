"""Write the generated pages and pictures of the documentation: `python -m docs.pages`."""

from docs import pictures
from docs.pages import PAGES
from docs.pages.markdown import ROOT
from docs.pages.results import describe_published


def main():
    """Write rows and figures of the experiments, then all pages and pictures."""
    describe_published()
    pictures.draw_all()
    for name, write in PAGES.items():
        (ROOT / "docs" / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
