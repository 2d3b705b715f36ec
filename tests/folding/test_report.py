"""The folding report as text and as HTML."""

from xml.etree import ElementTree

import keras
import pytest
from keras import layers

from bn_keras import BatchNormalization
from bn_keras.folding import Entry, FoldingResult, Report, fold_batch_normalization

pytestmark = pytest.mark.fast


def test_the_report_prints_as_a_table():
    inputs = keras.Input((4,))
    x = layers.ReLU()(BatchNormalization(name="one")(layers.Dense(3, name="d")(inputs)))
    model = keras.Model(inputs, layers.ReLU()(BatchNormalization(name="two")(x)))
    lines = str(fold_batch_normalization(model).report).splitlines()
    assert lines[0] == "batch normalization  outcome       into  rule or reason"
    assert lines[1] == "one                  folded        d     Dense, then BN"
    assert lines[2].startswith("two                  multiply-add        it follows")
    assert lines[3] == "1 folded, 1 left"


def test_the_report_shows_as_a_table_in_a_notebook():
    entries = (
        Entry("a<b", "folded", ("conv", "dense"), "Conv2D, then BN"),
        Entry("last", "multiply-add", reason="its output is a model output"),
    )
    table = ElementTree.fromstring(f"<div>{Report(entries)._repr_html_()}</div>")
    rows = [[cell.text or "" for cell in row] for row in table.iter("tr")]
    assert rows == [
        ["batch normalization", "outcome", "into", "rule or reason"],
        ["a<b", "folded", "conv, dense", "Conv2D, then BN"],
        ["last", "multiply-add", "", "its output is a model output"],
    ]
    assert table.findtext("p") == "1 folded, 1 left"


def test_reports_and_results_have_a_short_representation():
    report = Report(tuple(Entry(f"bn_{i}", "folded", ("d",), "x") for i in range(9)))
    assert repr(report) == "<Report: 9 folded, 0 left>"
    model = keras.Sequential([keras.Input((4,))], name="a&b")
    result = FoldingResult(model, report)
    assert repr(result) == (
        "<FoldingResult: model 'a&b', report <Report: 9 folded, 0 left>>"
    )
    assert str(result) == f"Folded model 'a&b'\n{report}"
    html = result._repr_html_()
    assert html.startswith("<p>Folded model <code>a&amp;b</code></p><table>")
    assert html.endswith(report._repr_html_())
