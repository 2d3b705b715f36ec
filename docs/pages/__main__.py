"""Write the generated pages of the documentation: `python -m docs.pages`."""

from docs.pages import PAGES
from docs.pages.markdown import ROOT


def main():
    """Write all of them."""
    for name, write in PAGES.items():
        (ROOT / "docs" / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
