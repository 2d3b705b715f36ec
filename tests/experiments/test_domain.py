"""Domain adaptation: the domains, the estimates, the figure and the rows."""

import numpy as np
import pytest
from PIL import Image

from bn_keras.data import Arrays
from bn_keras.evaluation import evaluate
from bn_keras.experiments import domain
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.domain import EXPERIMENT
from bn_keras.models import MLP, ConvNet
from bn_keras.population import estimate_population_statistics


def network(before=400, after=(800, 900), back=500, lost=20):
    facts = {"before": before, "after": list(after), "back": back}
    facts["mixed"] = [850, 900]
    facts |= {"gained": after[-1] - before + lost, "lost": lost}
    return {
        "images": 1000,
        "counts": [32, 1000],
        "domains": {name: dict(facts) for name in domain.DOMAINS},
    }


@pytest.fixture
def measurements():
    return {
        "scale": "smoke",
        "seconds": 1.0,
        "data": "digits",
        "networks": {
            "bn-mlp": [network(), network(420, (810, 910))],
            "bn-convnet": [network(), network()],
        },
    }


@pytest.fixture
def images():
    return load_data("digits", None).train.images


def changed(name, images):
    return domain.change_domain(name, images, np.random.default_rng(0))


@pytest.mark.fast
def test_the_pixels_of_each_domain_follow_its_formula(images):
    pixels = images.astype(float)
    for name, expected in {
        "original": pixels,
        "dark": pixels / 4,
        "grey": pixels / 4 + 0.5,
        "inverted": 1 - pixels,
    }.items():
        pictures = changed(name, images)
        assert pictures.dtype == np.float32
        np.testing.assert_allclose(pictures, expected, rtol=1e-6)


@pytest.mark.fast
def test_noise_is_gaussian_and_clipped_to_the_range_of_pixels():
    noisy = changed("noisy", np.full((100, 28, 28, 1), 0.5, np.float32))
    assert noisy.dtype == np.float32
    assert (noisy.min(), noisy.max()) == (0, 1)
    # 15.87 % of N(0.5, 0.5) is below 0; 78,400 draws are off by less than 0.5 %.
    np.testing.assert_allclose(np.mean(noisy == 0), 0.1587, atol=0.005)
    inside = np.mean((noisy > 0) & (noisy <= 0.5))
    np.testing.assert_allclose(inside, 0.5 - 0.1587, atol=0.007)


def test_small_digits_equal_those_of_another_library_on_black():
    smooth = np.outer(np.hanning(28), np.hanning(28)).astype(np.float32)
    small = changed("small", smooth[np.newaxis, :, :, np.newaxis])[0, :, :, 0]
    assert small.dtype == np.float32
    whole = Image.fromarray(smooth).resize((21, 21), Image.Resampling.BILINEAR)
    expected = np.zeros((28, 28))
    expected[3:24, 3:24] = np.asarray(whole)
    np.testing.assert_allclose(small, expected, atol=1e-3)


@pytest.mark.parametrize(("name", "scale"), [("dark", 1 / 4), ("grey", 1 / 4)])
def test_a_linear_change_of_pixels_is_undone_exactly_without_padding(
    images, name, scale
):
    model = MLP((8, 8, 1))
    layer = model.get_layer("hidden_1_bn")
    estimate_population_statistics(model, images, "pooled", verbose=0)
    variance = np.asarray(layer.moving_variance)
    expected = np.asarray(model(images[:50]))
    new = changed(name, images)
    # Apart from the epsilon of the first layer, a smaller variance changes nothing.
    layer.epsilon = layer.epsilon * scale**2
    estimate_population_statistics(model, new, "pooled", verbose=0)
    np.testing.assert_allclose(layer.moving_variance, variance * scale**2, 1e-3)
    np.testing.assert_allclose(
        np.asarray(model(new[:50])), expected, rtol=1e-3, atol=1e-6
    )


def test_inverted_pictures_stay_inverted_with_any_statistics(images):
    model = MLP((8, 8, 1))
    first = type(model)(model.input, model.get_layer("hidden_1_bn").output)
    estimate_population_statistics(first, images, "pooled", verbose=0)
    expected = np.asarray(first(images[:50]))
    new = changed("inverted", images)
    estimate_population_statistics(first, new, "pooled", verbose=0)
    np.testing.assert_allclose(
        np.asarray(first(new[:50])), -expected, rtol=1e-3, atol=1e-4
    )


def test_each_estimate_starts_from_the_trained_network(monkeypatch):
    digits = load_data("digits", None)
    trained = ConvNet((8, 8, 1))
    monkeypatch.setattr(domain, "train", lambda *args, **kwargs: (trained, {}))
    monkeypatch.setattr(domain, "DOMAINS", {"original": "", "inverted": ""})
    weights = trained.get_weights()
    result = domain._adapt({}, None, "bn-convnet", "digits", 0, 1, [64, 9999])
    assert result["images"] == 360
    assert result["counts"] == [64, 1437]
    order = np.random.default_rng(0).permutation(1437)
    for name, change in (("original", lambda p: p), ("inverted", lambda p: 1 - p)):
        test = Arrays(change(digits.test.images), digits.test.labels)
        trained.set_weights(weights)
        right = [evaluate(trained, test).top1]
        mixed = []
        for count in (64, 1437):
            trained.set_weights(weights)
            unlabelled = change(digits.train.images)[order[:count]]
            estimate_population_statistics(
                trained, unlabelled, "layerwise", verbose=0, prior_count="auto"
            )
            mixed.append(evaluate(trained, test).top1)
            trained.set_weights(weights)
            unlabelled = change(digits.train.images)[order[:count]]
            estimate_population_statistics(trained, unlabelled, "pooled", verbose=0)
            right.append(evaluate(trained, test).top1)
        right.append(evaluate(trained, digits.test).top1)
        facts = result["domains"][name]
        gain = facts["gained"] - facts["lost"]
        assert gain == facts["after"][-1] - facts["before"]
        assert min(facts["gained"], facts["lost"]) >= 0
        counted = [facts["before"], *facts["after"], facts["back"]]
        np.testing.assert_allclose(np.divide(counted, 360), right, atol=1e-12)
        np.testing.assert_allclose(np.divide(facts["mixed"], 360), mixed, atol=1e-12)


def test_the_figure_shows_dots_and_curves_of_each_network(measurements):
    figure = EXPERIMENT.plot(measurements)
    assert len(figure.axes) == 4
    dots, curves = figure.axes[:2]
    assert dots.get_ylabel() == "test accuracy"
    assert curves.get_xlabel() == "unlabelled pictures of the new domain"
    before, after = (container.lines[0].get_ydata() for container in dots.containers)
    assert len(before) == len(after) == len(domain.DOMAINS)
    np.testing.assert_allclose([before[0], after[0]], [0.41, 0.905])
    assert len(curves.lines) == len(curves.collections) == len(domain.DOMAINS)
    np.testing.assert_allclose(curves.lines[-1].get_ydata(), [0.805, 0.905])
    assert [text.get_text() for text in dots.get_xticklabels()] == list(domain.DOMAINS)


@pytest.mark.fast
def test_rows_say_higher_lower_or_undecided(measurements):
    seeds = measurements["networks"]["bn-mlp"]
    for seed in seeds:
        seed["domains"]["original"] = network(900, (900, 900), lost=0)["domains"][
            "dark"
        ]
        seed["domains"]["inverted"] = network(400, (1, 2), lost=399)["domains"]["dark"]
    # One of the two seeds goes the other way, or does not change.
    seeds[1]["domains"]["noisy"] = network(900, (800, 700), lost=250)["domains"]["dark"]
    seeds[1]["domains"]["small"] = network(900, (900, 900))["domains"]["dark"]
    rows = EXPERIMENT.rows(measurements)[: len(domain.DOMAINS)]
    words = [row.measured.split(": ")[-1] for row in rows]
    assert words == ["undecided", "higher", "higher", "lower", "undecided", "undecided"]
    assert rows[1].claim == "3 x 100 sigmoid units, dark (p / 4): accuracy (%)"
    assert rows[1].measured == "41.0 (40.0 to 42.0) -> 90.5 (90.0 to 91.0): higher"
    assert {(row.paper, row.direction) for row in rows} == {("-", None)}


@pytest.mark.fast
def test_rows_compare_both_estimates_from_few_pictures(measurements):
    row = EXPERIMENT.rows(measurements)[2 * len(domain.DOMAINS) + 1]
    assert row.claim == "3 x 100 sigmoid units, dark, 32 pictures: accuracy (%)"
    assert row.measured == "new statistics 80.5; mixed with the old ones 85.0"


@pytest.mark.fast
@pytest.mark.parametrize(("lost", "word"), [(70, "higher"), (80, "undecided")])
def test_the_interval_depends_on_the_answers_that_changed(measurements, lost, word):
    # Of 1,000 pictures: 30 +- 25.5 and 20 +- 26.3. Unpaired, 30 would not be enough.
    for seed in measurements["networks"]["bn-mlp"]:
        seed["domains"]["dark"] |= {"gained": 100, "lost": lost}
    assert EXPERIMENT.rows(measurements)[1].measured.endswith(word)


@pytest.mark.slow
def test_a_smoke_run_measures_each_part_once(tmp_path):
    progress = []
    first = EXPERIMENT.run(tmp_path, "smoke")
    second = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress == [("", 1, 1)]
    assert second == first
    assert len(EXPERIMENT.plot(first).axes) == 2
    assert len(EXPERIMENT.rows(first)) == 2 * len(domain.DOMAINS)
