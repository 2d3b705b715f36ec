"""A user's script that makes every public call; `test_types` runs pyright on it.

It is never executed. `reveal_type` must show a type for each result.
"""

from dataclasses import replace
from pathlib import Path
from typing import reveal_type

import keras
import numpy as np

import bn_keras
from bn_keras import BatchNormalization, data, evaluation, export, folding, training
from bn_keras.experiments.reproducing import reproduce
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.models import MLP, VGG, BNInception, ConvNet, Inception
from bn_keras.training import distribution
from bn_keras.training.recipes import BN_X5, RECIPES, Recipe
from bn_keras_serving import (
    AsyncPredictionClient,
    PredictionClient,
    PredictionServer,
    Tls,
)
from bn_keras_serving.client import Classes, VersionState
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.configuration import (
    BatchingParameters,
    available_processors,
    read_batching,
    read_models,
    read_monitoring,
    read_tls,
    single_model,
)

images = np.zeros((32, 8, 8, 3), np.float32)

# The layer.
layer = BatchNormalization(axis=(1, 2, 3), averaging="debiased", name="bn")
reveal_type(BatchNormalization(axis=-1, momentum=0.9, virtual_batch_size=8))
reveal_type(layer(images, training=True))
reveal_type(layer.get_config())
reveal_type(BatchNormalization.from_config(layer.get_config()))

# Models.
model = BNInception(input_shape=(32, 32, 3), classes=10, stem="small", width=0.25)
reveal_type(model)
reveal_type(Inception(input_shape=(32, 32, 3), classes=10, stem="small"))
reveal_type(VGG(input_shape=(32, 32, 3), classes=10, head="small"))
reveal_type(MLP(input_shape=(28, 28, 1), classes=10))
reveal_type(ConvNet(input_shape=(28, 28, 1), classes=10))

# Statistics, replacement, folding, export.
movements = bn_keras.estimate_population_statistics(model, images, method="pooled")
reveal_type(movements)
reveal_type(movements["bn"].mean)
reveal_type(bn_keras.replace_batch_normalization(model))
result = bn_keras.fold_batch_normalization(model)
reveal_type(result)
reveal_type(result.model)
reveal_type(result.report)
reveal_type(result.report.entries)
reveal_type(result.report.folded)
reveal_type(folding.fold_batch_normalization(model).model)
preprocessing = Preprocessing(size=(32, 32), scale=1 / 255)
reveal_type(preprocessing)
reveal_type(
    bn_keras.export_saved_model(
        model,
        "models/photos",
        version=1,
        labels=["cat", "dog"],
        preprocessing=preprocessing,
        samples=images,
        tolerance=1e-4,
        top_k=2,
    )
)
reveal_type(export.versions("models/photos"))
reveal_type(export.highest_version("models/photos"))
reveal_type(export.read_manifest(Path("models/photos/1")))
reveal_type(export.write_server_files("models/photos"))

# Data, training, evaluation.
examples = data.load("digits")
reveal_type(examples)
reveal_type(examples.train)
reveal_type(examples.class_names)
reveal_type(len(examples.train))
reveal_type(data.digits())
reveal_type(data.mnist("mnist/"))
reveal_type(data.cifar10("cifar10/"))
reveal_type(data.image_folder("photos/", bad_files="skip"))
reveal_type(data.imagenet("imagenet/"))
reveal_type(data.records("records/"))
reveal_type(data.convert(examples, "records/"))
recipe = replace(BN_X5, epochs=2, distortion=Augmentation())
reveal_type(recipe)
reveal_type(RECIPES["bn-x5"])
trained, history = training.train(recipe, examples, workdir="run/", verbose=0)
reveal_type(trained)
reveal_type(history)
reveal_type(training.build(recipe, examples))
reveal_type(training.preprocessing_for(recipe, examples))
reveal_type(distribution.start("mirrored"))
score = evaluation.evaluate(trained, examples.test, crops=10)
reveal_type(score)
reveal_type(score.top1)
reveal_type(score.top5_interval)
reveal_type(score.confusion)
reveal_type(score.per_class[0].top1)
reveal_type(evaluation.predict_probabilities(trained, examples.test))
reveal_type(evaluation.plot_confusion(score, examples.class_names))
reveal_type(evaluation.wilson_interval(90, 100))
reveal_type(reproduce("mnist", "results/", scale="smoke"))


def of_a_recipe(recipe: Recipe) -> float:
    """Use a recipe as a type."""
    return recipe.learning_rate


# Serving and clients.
reveal_type(Limits(elements=10))
reveal_type(BatchingParameters(max_batch_size=8))
reveal_type(read_batching("batching.txt"))
reveal_type(read_models("models.config"))
reveal_type(read_monitoring("monitoring.config"))
reveal_type(read_tls("ssl.config"))
reveal_type(single_model("photos", "/models/photos"))
reveal_type(available_processors())
with (
    PredictionServer("models/photos", port=0, rest_port=0) as server,
    PredictionClient(server.address, "photos", timeout=5.0) as client,
):
    reveal_type(server)
    reveal_type(server.address)
    reveal_type(server.rest_address)
    reveal_type(client)
    reveal_type(client.predict(images))
    reveal_type(client.predict({"image": images}, output_filter=["probabilities"]))
    reveal_type(client.predict_images(["a.jpg"]))
    reveal_type(client.predict_many(images))
    reveal_type(client.predict_many_images(["a.jpg"]))
    reveal_type(client.classify(["a.jpg"]))
    reveal_type(client.regress([{"x": 1.0}]))
    reveal_type(client.metadata())
    reveal_type(client.status())
reveal_type(Tls(ca="authority.pem"))


def labels(classes: Classes, states: list[VersionState]) -> np.ndarray:
    """Use what clients return as types."""
    reveal_type(states[0].state)
    return classes.labels


async def ask() -> None:
    """Make every call of the asyncio client."""
    async with AsyncPredictionClient("127.0.0.1:8500", "photos") as client:
        reveal_type(client)
        reveal_type(await client.predict(images))
        reveal_type(await client.predict_images(["a.jpg"]))
        reveal_type(await client.classify(["a.jpg"]))
        reveal_type(await client.regress([{"x": 1.0}]))
        reveal_type(await client.metadata())
        reveal_type(await client.status())
        async for answer in client.predict_many(images):
            reveal_type(answer)
        async for answer in client.predict_many_images(["a.jpg"]):
            reveal_type(answer)


keras.utils.set_random_seed(0)
