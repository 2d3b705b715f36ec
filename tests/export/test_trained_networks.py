"""Networks that others have trained answer the same, folded and exported."""

import numpy as np
import pytest
from export_checks import LoadedExport
from trained_networks import NETWORKS, trained_network

from bn_keras import export_saved_model, fold_batch_normalization

pytestmark = pytest.mark.slow
# With these the networks and their images are what they are taken for.
LEAST_ACCURACY = {
    "ResNet-20": 0.915,
    "ResNet-56": 0.93,
    "EfficientNet-Lite0": 0.88,
    "EfficientNet-Lite1": 0.89,
}
BATCH = 50


@pytest.mark.parametrize("name", NETWORKS)
def test_the_best_class_of_every_image_stays(name, tmp_path, record_property):
    network = trained_network(name)
    folding = fold_batch_normalization(network.model)
    assert folding.report.left == 0
    path = export_saved_model(
        network.model, tmp_path / "model", preprocessing=network.preprocessing
    )
    exported = LoadedExport(path)
    count = len(network.labels)
    best, differences = {"before": [], "folded": [], "exported": [], "pixels": []}, []
    for start in range(0, count, BATCH):
        chosen = slice(start, start + BATCH)
        x = network.inputs(chosen)
        (scores,) = exported(images=x).values()
        (of_pixels,) = exported("predict_uint8", images=network.pixels[chosen]).values()
        before = network.model.predict_on_batch(x)
        answers = before, folding.model.predict_on_batch(x), scores, of_pixels
        for classes, answer in zip(best.values(), answers, strict=True):
            classes.extend(answer.argmax(axis=1))
            differences.append(np.abs(answer - before).max() / np.abs(before).max())
    accuracy = (np.array(best["before"]) == network.labels).mean()
    record_property("accuracy", float(accuracy))
    record_property("largest difference", float(max(differences)))
    assert accuracy > LEAST_ACCURACY[name]
    for classes in best.values():
        np.testing.assert_array_equal(classes, best["before"])
    assert max(differences) < 1e-4
