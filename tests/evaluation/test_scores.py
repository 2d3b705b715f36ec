"""Accuracies, their intervals, and the figure of the confusion matrix."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bn_keras.evaluation import Evaluation, plot_confusion, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials"), [(1, 3), (9, 10), (336, 360), (39_005, 50_000)]
)
def test_both_ends_of_the_interval_are_as_unlikely_as_each_other(successes, trials):
    share = successes / trials
    for bound, sign in zip(wilson_interval(successes, trials), (1, -1), strict=True):
        # The 97.5 % point of the normal distribution.
        expected = 1.959963984540054 * np.sqrt(bound * (1 - bound) / trials)
        np.testing.assert_allclose(sign * (share - bound), expected, rtol=1e-9)


@pytest.mark.parametrize("trials", [1, 7, 360])
def test_the_interval_ends_at_0_or_1_if_none_or_all_are_right(trials):
    z2 = 1.959963984540054**2
    for (low, high), expected in (
        (wilson_interval(0, trials), (0, z2 / (trials + z2))),
        (wilson_interval(trials, trials), (trials / (trials + z2), 1)),
    ):
        np.testing.assert_allclose((low, high), expected, rtol=1e-12)
        assert low >= 0
        assert high <= 1


def test_the_interval_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for successes, trials, confidence in ((0, 5, 0.95), (4, 9, 0.99), (90, 100, 0.5)):
        test = stats.binomtest(successes, trials)
        expected = test.proportion_ci(confidence, method="wilson")
        interval = wilson_interval(successes, trials, confidence)
        np.testing.assert_allclose(interval, expected, rtol=1e-9, atol=1e-15)


def random_evaluation(classes, seed=0):
    draw = np.random.default_rng(seed)
    right = np.diag(draw.integers(20, 40, classes))
    wrong = draw.poisson(10 / classes, (classes, classes))
    confusion = (right + wrong).astype(np.int64)
    return Evaluation(confusion, confusion.sum(1))


def test_an_evaluation_shows_its_accuracies_with_their_intervals():
    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 9]))
    assert (evaluation.top1_interval, evaluation.top5_interval) == (
        wilson_interval(17, 20),
        wilson_interval(19, 20),
    )
    assert str(evaluation).splitlines() == [
        "images 20",
        "top1 0.8500 (0.6396 to 0.9476)",
        "top5 0.9500 (0.7639 to 0.9911)",
    ]


def test_an_evaluation_shows_itself_in_one_line_and_as_a_table():
    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 9]))
    assert repr(evaluation) == (
        "Evaluation(images=20, classes=2, top1=0.8500, top5=0.9500)"
    )
    table = evaluation._repr_html_()
    assert "20 images" in table
    assert "<th>top1</th><td>85.00%</td><td>63.96% to 94.76%</td>" in table
    assert "<th>top5</th><td>95.00%</td><td>76.39% to 99.11%</td>" in table


def test_the_score_of_a_class_shows_four_digits():
    score, _ = Evaluation(np.array([[1, 2], [0, 0]]), np.array([3, 0])).per_class
    assert repr(score) == "ClassScore(images=3, top1=0.3333, top5=1.0000)"


def render(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_the_names_of_few_classes_do_not_overlap(classes):
    names = [f"a class with quite a long name {number}" for number in range(classes)]
    figure = plot_confusion(random_evaluation(classes), names)
    renderer = render(figure)
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert len(boxes) == classes
        for box, next_box in pairwise(boxes):
            assert not box.overlaps(next_box)
        width, height = figure.canvas.get_width_height()
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height


def test_the_numbers_of_few_classes_fit_their_cells():
    confusion = np.diag([12_345] * 12) + 1000
    figure = plot_confusion(Evaluation(confusion, confusion.sum(1)))
    renderer = render(figure)
    axes = figure.axes[0]
    cell = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
    assert len(axes.texts) == 144
    assert {text.get_text() for text in axes.texts} == {"13345", "1000"}
    for text in axes.texts:
        assert text.get_window_extent(renderer).width < cell


@pytest.mark.parametrize("classes", [41, 1000])
def test_many_classes_get_at_least_a_pixel_each_and_no_names(classes):
    evaluation = random_evaluation(classes)
    figure = plot_confusion(evaluation, [str(number) for number in range(classes)])
    render(figure)
    axes = figure.axes[0]
    assert not axes.texts
    assert len(axes.get_xticklabels()) < 20
    assert axes.get_window_extent().width >= classes
    shares = evaluation.confusion / evaluation.confusion.sum(1, keepdims=True)
    np.testing.assert_allclose(axes.images[0].get_array().filled(0), shares)
    # Even the rarest confusion does not look like zero.
    rarest = axes.images[0].to_rgba(np.array([0.002]))[0]
    assert min(rarest[:3]) < 0.3


def test_a_class_without_images_and_special_characters_can_be_drawn():
    evaluation = Evaluation(np.array([[0, 0], [1, 3]]), np.array([0, 4]))
    render(plot_confusion(evaluation, ("$5", "a_b^c")))


def test_another_number_of_names_than_classes_is_an_error():
    with pytest.raises(ValueError, match=r"`class_names` must have 3 .* Received: 2"):
        plot_confusion(random_evaluation(3), ("cat", "dog"))
