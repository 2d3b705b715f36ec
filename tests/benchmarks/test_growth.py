"""Slopes of growth, and the page that shows them."""

import json

import pytest

from benchmarks.processes import slope
from docs.pages import growth, markdown

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_slope_is_the_power_of_the_size(power):
    sizes = [1, 10, 100, 1000]
    assert slope(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_constant_parts_do_not_count_where_sizes_are_small():
    sizes = [1, 2, 4, 1000, 2000, 4000]
    assert slope(sizes, [100 + 2 * size for size in sizes]) == pytest.approx(1, abs=0.1)


def test_steep_growth_without_a_reason_is_not_written(monkeypatch, tmp_path):
    row = {"task": "sort", "items": [1, 10], "seconds": [1, 30]}
    row |= {"seconds to read": [2, 3], "slope of seconds to read": 0.18}
    row |= {"slope of seconds": 1.5, "MB": [1.0, 10.0], "slope of MB": 1.0}
    facts = {"sections": {"items": [row]}, "command": "sort", "machine": "one"}
    (tmp_path / "growth.json").write_text(json.dumps(facts))
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    with pytest.raises(KeyError, match="sort"):
        growth.growth_section()
    monkeypatch.setitem(growth.REASONS, "sort", "it compares.")
    section = growth.growth_section()
    assert (
        "| sort, seconds | 1 to 10 items | 1 to 30 | 1.5 | 1 to 10 | 1.0 |" in section
    )
    assert "| sort, to read | 1 to 10 items | 2 to 3 | 0.18 |  |  |" in section
    assert "- **sort, seconds, items**: it compares." in section
