"""The generated pages of the documentation, and the functions that write them.

Every figure on them comes from a file in `benchmarks/results/`. The tests write the
pages again and compare.
"""

from docs.pages.comparison import comparison_page
from docs.pages.papers import papers_page
from docs.pages.performance import performance_page
from docs.pages.results import PAPERS, page_of

PAGES = {
    "comparison.md": comparison_page,
    "papers.md": papers_page,
    "performance.md": performance_page,
    **{f"results/{name}.md": page_of(name) for name in PAPERS},
}
