"""`evaluate`: its counts, its averages and its errors."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bn_keras import data
from bn_keras.evaluation import evaluate
from bn_keras.evaluation.crop_batches import crop_batches, extract_crops
from bn_keras.export.decoding import decode_batch
from bn_keras.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture
def photographs(tmp_path):
    """Eleven image files of several sizes and of four classes."""
    draw = np.random.default_rng(0)
    paths = []
    for number in range(11):
        pixels = draw.integers(0, 256, (3 + number, 5, 3), np.uint8)
        size = (20 + 3 * number, 40)
        paths.append(os.fsencode(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).resize(size).save(tmp_path / f"{number}.png")
    return data.Files(paths, np.arange(11) % 4)


def classifier(seed, classes=7, activation="softmax"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((14, 14, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(
                classes,
                activation,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.2),
            ),
        ],
        name=f"seed_{seed}",
    )


def lookup_model(table):
    """Return a model whose output is row i of `table` for an image of the value i."""
    table = np.array(table, "float32")
    model = keras.Sequential(
        [
            keras.Input((1, 1, 1)),
            keras.layers.Flatten(),
            keras.layers.Embedding(*table.shape),
            keras.layers.Flatten(),
        ]
    )
    model.set_weights([table])
    return model


def numbered_images(labels):
    count = len(labels)
    images = np.arange(count, dtype="float32").reshape(count, 1, 1, 1)
    return data.Arrays(images, np.array(labels))


def test_top1_and_top5_are_shares_of_images():
    table = [[6, 5, 4, 3, 2, 1, 0]] * 4
    evaluation = evaluate(lookup_model(table), numbered_images([0, 4, 5, 1]))
    assert (evaluation.images, evaluation.top1, evaluation.top5) == (4, 0.25, 0.75)


@pytest.mark.parametrize("answer", [0.0, np.nan])
def test_a_model_with_the_same_output_for_every_class_is_never_right(answer):
    evaluation = evaluate(lookup_model([[answer] * 7] * 4), numbered_images(range(4)))
    assert (evaluation.top1, evaluation.top5) == (0, 0)
    assert not evaluation.confusion.diagonal().any()
    assert evaluation.images == 4


def test_the_confusion_matrix_and_the_scores_by_class():
    table = [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]]
    evaluation = evaluate(lookup_model(table), numbered_images([0, 0, 2, 2]))
    np.testing.assert_array_equal(
        evaluation.confusion, [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    )
    first, second, third = evaluation.per_class
    assert first == third == (2, 0.5, 1.0)
    assert second.images == 0
    assert np.isnan([second.top1, second.top5]).all()


def test_an_ensemble_averages_probabilities_and_does_not_vote():
    certain, uncertain = [[0.1, 0.9, 0.0]], [[0.6, 0.4, 0.0]]
    models = [lookup_model(table) for table in (uncertain, certain, uncertain)]
    assert evaluate(models[0], numbered_images([0])).top1 == 1
    assert evaluate(models, numbered_images([0])).top1 == 0
    assert evaluate(models, numbered_images([1])).top1 == 1


@pytest.mark.parametrize(("crops", "ensemble"), [(1, 3), (10, 3), (144, 1)])
def test_probabilities_are_averaged_over_crops_and_models(photographs, crops, ensemble):
    models = [classifier(seed) for seed in range(ensemble)]
    preprocessing = Preprocessing(scale=1 / 127.5, offset=-1.0)
    evaluation = evaluate(models, photographs, crops, preprocessing, batch_size=50)
    confusion = np.zeros((7, 7), int)
    resolved = preprocessing.resolve((None, 14, 14, 3))
    for path, label in zip(photographs.paths, photographs.labels, strict=True):
        if crops == 1:
            images = decode_batch(
                tf.constant([tf.io.read_file(path).numpy()]), resolved
            )
            images = np.array(images) / 127.5 - 1
        else:
            pixels = np.array(Image.open(path), "float32") / 255
            images = extract_crops(tf.constant(pixels), resolved, crops)
        answers = [np.array(model(images), np.float64) for model in models]
        confusion[label, np.mean(answers, (0, 1)).argmax()] += 1
    np.testing.assert_array_equal(evaluation.confusion, confusion)


def test_the_single_crop_is_that_of_exported_models(photographs):
    preprocessing = Preprocessing(size=(14, 14), crop_fraction=0.875, channels=3)
    images, _ = next(iter(crop_batches(photographs, preprocessing, 1, 11)))
    files = tf.constant([tf.io.read_file(path).numpy() for path in photographs.paths])
    exported = np.array(decode_batch(files, preprocessing)) / 255
    np.testing.assert_allclose(images, exported, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 50, 5000])
def test_batches_are_full_and_hold_the_same_crops(photographs, batch_size):
    preprocessing = Preprocessing(size=(14, 14), channels=3)
    if batch_size == 1:
        photographs = data.Files(photographs.paths[:2], photographs.labels[:2])
    total = len(photographs) * 144
    batches = list(crop_batches(photographs, preprocessing, 144, batch_size))
    sizes = [len(labels) for _, labels in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == total
    crops = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, np.repeat(photographs.labels, 144))
    for number, (image, _) in enumerate(photographs.original_images()):
        expected = extract_crops(image, preprocessing, 144)
        np.testing.assert_array_equal(crops[number * 144 :][:144], expected)


def test_the_model_gets_batches_of_one_size(photographs):
    model = classifier(0)
    sizes = []
    predict = model.predict_on_batch
    model.predict_on_batch = lambda images: sizes.append(len(images)) or predict(images)
    ten = evaluate(model, photographs, 10, batch_size=64)
    assert sizes == [64, 64]
    sizes.clear()
    assert evaluate(model, photographs, 10).top1 == ten.top1
    assert sizes == [110]


def test_images_are_read_when_they_are_needed():
    class Counting(data.Arrays):
        read_so_far = 0

        def read(self, reference):
            def count():
                self.read_so_far += 1
                return np.int64(0)

            zero = tf.numpy_function(count, [], tf.int64)
            return super().read(reference + tf.ensure_shape(zero, ()))

    split = Counting(np.zeros((400, 8, 8, 1), "float32"), np.zeros(400, np.int64))
    preprocessing = Preprocessing(size=(8, 8), channels=1)
    batches = iter(crop_batches(split, preprocessing, 144, 144))
    for _ in range(10):
        next(batches)
    # How many are read ahead depends on the cores, not on the number of images.
    assert split.read_so_far < 10 + 20 + 6 * (os.cpu_count() or 1)


def test_progress_is_reported_in_images(photographs):
    counts = []
    evaluate(classifier(0), photographs, 10, batch_size=25, on_batch_end=counts.append)
    assert counts == [2, 5, 7, 10, 11]


def test_logits_can_be_ranked_but_not_averaged(photographs):
    model = classifier(0, activation=None)
    assert evaluate(model, photographs, preprocessing=Preprocessing()).images == 11
    message = (
        r"must be probabilities.* Received: outputs .* of model 1 \(seed_0\)\. End"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(model, photographs, crops=10)
    with pytest.raises(ValueError, match=r"model 2 \(seed_0\)"):
        evaluate([classifier(1), model], photographs)


def test_models_of_different_shapes_are_named(photographs):
    message = r"output_shape \(6,\) of model 2 \(seed_1\), \(7,\) of model 1 \(seed_0"
    with pytest.raises(ValueError, match=message):
        evaluate([classifier(0), classifier(1, classes=6)], photographs)
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"input_shape \(8, 8, 3\) of model 2"):
        evaluate([classifier(0), other], photographs)
    with pytest.raises(ValueError, match="must have at least one model"):
        evaluate([], photographs)


def test_a_model_that_is_not_a_classifier_is_an_error(digits):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        evaluate(keras.Model(image, [flat, flat]), digits.test)
    with pytest.raises(ValueError, match=r"Received: \(None, 8, 8, 1\)"):
        evaluate(keras.Model(image, keras.layers.ReLU()(image)), digits.test)


@pytest.mark.parametrize("shape", [(28, 28, 1), (64,)])
def test_a_model_for_other_images_is_an_error(digits, shape):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"Received: images of shape \(8, 8, 1\)"):
        evaluate(model, digits.test)


def test_a_model_for_other_channels_is_an_error_even_with_preprocessing(digits):
    with pytest.raises(ValueError, match=r"Received: images of shape \(8, 8, 1\)"):
        evaluate(classifier(0), digits.test, crops=10, preprocessing=Preprocessing())


def test_a_model_of_fewer_classes_is_an_error(digits):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match=r"of 3 classes\. Received: label 9"):
        evaluate(model, digits.test)


def test_a_split_without_images_is_an_error(digits):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    nothing = data.Arrays(digits.test.images[:0], digits.test.labels[:0])
    with pytest.raises(ValueError, match=r"at least one image\. Received: 0 images"):
        evaluate(model, nothing)


def test_crops_must_be_1_10_or_144_and_the_input_a_square(photographs):
    with pytest.raises(ValueError, match=r"`crops` must be one of 1, 10, 144\. .*=7"):
        evaluate(classifier(0), photographs, crops=7)
    wide = keras.Sequential([keras.Input((8, 9, 3)), keras.layers.Flatten()])
    with pytest.raises(
        ValueError, match=r"must be a square .*Received: \(8, 9\)\. Set crops=1"
    ):
        evaluate(wide, photographs, crops=10)
    free = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(7, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Softmax(),
        ]
    )
    with pytest.raises(ValueError, match=r"must be a square .*Received: None"):
        evaluate(free, photographs, crops=10)
    evaluation = evaluate(free, photographs, 10, Preprocessing(size=(14, 14)))
    assert evaluation.images == 11


@pytest.mark.parametrize("crops", [1, 10])
def test_a_damaged_image_is_named(photographs, tmp_path, crops):
    (tmp_path / "3.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"Received: .*3\.png"):
        evaluate(classifier(0), photographs, crops)


@pytest.mark.slow
def test_jax_gives_the_same_counts(photographs, tmp_path):
    model = classifier(0)
    model.save(tmp_path / "model.keras")
    expected = evaluate([model, model], photographs, 10, batch_size=64).confusion
    np.save(tmp_path / "expected.npy", expected)
    np.save(tmp_path / "paths.npy", photographs.paths, allow_pickle=True)
    code = (
        "import keras, numpy as np\n"
        "from bn_keras import data\n"
        "from bn_keras.evaluation import evaluate\n"
        "assert keras.backend.backend() == 'jax'\n"
        "paths = np.load('paths.npy', allow_pickle=True)\n"
        "model = keras.models.load_model('model.keras')\n"
        "split = data.Files(paths, np.arange(11) % 4)\n"
        "evaluation = evaluate([model, model], split, 10, batch_size=64)\n"
        "np.testing.assert_array_equal(evaluation.confusion, np.load('expected.npy'))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=tmp_path,
        check=True,
    )
