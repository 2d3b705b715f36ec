"""The figure of the confusion matrix."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bn_keras.evaluation import Evaluation, plot_confusion


def random_evaluation(classes, seed=0):
    draw = np.random.default_rng(seed)
    right = np.diag(draw.integers(20, 40, classes))
    wrong = draw.poisson(10 / classes, (classes, classes))
    confusion = (right + wrong).astype(np.int64)
    return Evaluation(confusion, confusion.sum(1))


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
