"""Domain adaptation: the domains, what is estimated, drawn and claimed."""

import numpy as np
import pytest
from PIL import Image

from bn_keras.data import Arrays
from bn_keras.evaluation import evaluate
from bn_keras.experiments import domain
from bn_keras.experiments.parts import load_data
from bn_keras.models import MLP, ConvNet
from bn_keras.population import estimate_population_statistics


def network(before=400, after=(800, 900), back=500, lost=20):
    facts = {"before": before, "after": list(after), "back": back}
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
    return domain.change(name, images, np.random.default_rng(0))


def test_values_of_each_domain_are_those_of_its_formula(images):
    pixels = images.astype(float)
    for name, expected in {
        "original": pixels,
        "dark": pixels / 4,
        "grey": pixels / 4 + 0.5,
        "inverted": 1 - pixels,
    }.items():
        found = changed(name, images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_noise_is_gaussian_cut_to_the_range_of_pixels():
    found = changed("noisy", np.full((100, 28, 28, 1), 0.5, np.float32))
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    # Of N(0.5, 0.5) 15.87 % lie below 0; 78,400 draws are off by less than 0.5 %.
    np.testing.assert_allclose(np.mean(found == 0), 0.1587, atol=0.005)
    inside = np.mean((found > 0) & (found <= 0.5))
    np.testing.assert_allclose(inside, 0.5 - 0.1587, atol=0.007)


def test_small_digits_are_those_of_another_library_on_black():
    smooth = np.outer(np.hanning(28), np.hanning(28)).astype(np.float32)
    found = changed("small", smooth[np.newaxis, :, :, np.newaxis])[0, :, :, 0]
    assert found.dtype == np.float32
    whole = Image.fromarray(smooth).resize((21, 21), Image.Resampling.BILINEAR)
    expected = np.zeros((28, 28))
    expected[3:24, 3:24] = np.asarray(whole)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(("name", "scale"), [("dark", 1 / 4), ("grey", 1 / 4)])
def test_linear_change_of_pixels_is_undone_exactly_where_nothing_is_padded(
    images, name, scale
):
    model = MLP((8, 8, 1))
    layer = model.get_layer("hidden_1_bn")
    estimate_population_statistics(model, images, "pooled", verbose=0)
    variance = np.asarray(layer.moving_variance)
    expected = np.asarray(model(images[:50]))
    new = changed(name, images)
    # The epsilon of the first layer is all that a smaller variance changes.
    layer.epsilon = layer.epsilon * scale**2
    estimate_population_statistics(model, new, "pooled", verbose=0)
    np.testing.assert_allclose(layer.moving_variance, variance * scale**2, 1e-3)
    np.testing.assert_allclose(
        np.asarray(model(new[:50])), expected, rtol=1e-3, atol=1e-6
    )


def test_inverted_pictures_keep_their_sign_whatever_the_statistics(images):
    model = MLP((8, 8, 1))
    first = type(model)(model.input, model.get_layer("hidden_1_bn").output)
    estimate_population_statistics(first, images, "pooled", verbose=0)
    expected = np.asarray(first(images[:50]))
    new = changed("inverted", images)
    estimate_population_statistics(first, new, "pooled", verbose=0)
    np.testing.assert_allclose(
        np.asarray(first(new[:50])), -expected, rtol=1e-3, atol=1e-4
    )


def test_each_estimate_begins_with_the_trained_network(monkeypatch):
    digits = load_data("digits", None)
    trained = ConvNet((8, 8, 1))
    monkeypatch.setattr(domain, "train", lambda *args, **kwargs: (trained, {}))
    monkeypatch.setattr(domain, "DOMAINS", {"original": "", "inverted": ""})
    weights = trained.get_weights()
    found = domain.adapt_to_domains("bn-convnet", "digits", 0, 1, [64, 9999])
    assert found["images"] == 360
    assert found["counts"] == [64, 1437]
    order = np.random.default_rng(0).permutation(1437)
    for name, change in (("original", lambda p: p), ("inverted", lambda p: 1 - p)):
        test = Arrays(change(digits.test.images), digits.test.labels)
        trained.set_weights(weights)
        right = [evaluate(trained, test).top1]
        for count in (64, 1437):
            trained.set_weights(weights)
            unlabelled = change(digits.train.images)[order[:count]]
            estimate_population_statistics(trained, unlabelled, "pooled", verbose=0)
            right.append(evaluate(trained, test).top1)
        right.append(evaluate(trained, digits.test).top1)
        facts = found["domains"][name]
        gain = facts["gained"] - facts["lost"]
        assert gain == facts["after"][-1] - facts["before"]
        assert min(facts["gained"], facts["lost"]) >= 0
        counted = [facts["before"], *facts["after"], facts["back"]]
        np.testing.assert_allclose(np.divide(counted, 360), right, atol=1e-12)


def test_figure_shows_bars_and_curve_of_each_network(measurements):
    figure = domain.plot(measurements)
    assert len(figure.axes) == 4
    bars, curves = figure.axes[:2]
    assert bars.get_ylabel() == "test accuracy"
    assert curves.get_xlabel() == "unlabelled pictures of the new domain"
    assert len(bars.patches) == 2 * len(domain.DOMAINS)
    np.testing.assert_allclose(bars.patches[0].get_height(), 0.41)
    np.testing.assert_allclose(bars.patches[len(domain.DOMAINS)].get_height(), 0.905)
    assert len(curves.lines) == len(curves.collections) == len(domain.DOMAINS)
    np.testing.assert_allclose(curves.lines[-1].get_ydata(), [0.805, 0.905])
    assert [text.get_text() for text in bars.get_xticklabels()] == list(domain.DOMAINS)


def test_rows_say_higher_lower_or_undecided(measurements):
    seeds = measurements["networks"]["bn-mlp"]
    for one in seeds:
        one["domains"]["original"] = network(900, (900, 900), lost=0)["domains"]["dark"]
        one["domains"]["inverted"] = network(400, (1, 2), lost=399)["domains"]["dark"]
    # One seed of the two goes the other way, or does not move.
    seeds[1]["domains"]["noisy"] = network(900, (800, 700), lost=250)["domains"]["dark"]
    seeds[1]["domains"]["small"] = network(900, (900, 900))["domains"]["dark"]
    found = domain.rows(measurements)[: len(domain.DOMAINS)]
    words = [row.measured.split(": ")[-1] for row in found]
    assert words == ["undecided", "higher", "higher", "lower", "undecided", "undecided"]
    assert found[1].claim == "3 x 100 sigmoid units, dark (p / 4): accuracy in %"
    assert found[1].measured == "41.0 (40.0 to 42.0) -> 90.5 (90.0 to 91.0): higher"
    assert {(row.paper, row.agrees) for row in found} == {("-", None)}


@pytest.mark.parametrize(("lost", "word"), [(70, "higher"), (80, "undecided")])
def test_a_difference_counts_by_the_pictures_that_turned(measurements, lost, word):
    # Of 1,000 pictures: 30 +- 25.5 and 20 +- 26.3. Not paired, 30 would not do.
    for one in measurements["networks"]["bn-mlp"]:
        one["domains"]["dark"] |= {"gained": 100, "lost": lost}
    assert domain.rows(measurements)[1].measured.endswith(word)


def test_smoke_run_ends_and_measures_nothing_a_second_time(tmp_path):
    told = []
    first = domain.run(tmp_path, "smoke")
    second = domain.run(
        tmp_path, "smoke", on_part=lambda *progress: told.append(progress)
    )
    assert told == [("", 1, 1)]
    assert second == first
    assert len(domain.plot(first).axes) == 2
    assert len(domain.rows(first)) == len(domain.DOMAINS)
