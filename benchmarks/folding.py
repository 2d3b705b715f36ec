"""Fold every family of keras.applications: `python -m benchmarks.folding`.

Weights and statistics are random, since folding does not depend on their meaning. The
table lists for each network the batch normalizations folded and left, the largest
difference of the output relative to its largest value, and the seconds of folding.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks.timing import provenance
from bn_keras.folding import fold_batch_normalization
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.models import BNInception

# The smallest network of each family, with the smallest side that it takes.
NETWORKS = {
    "BNInception": 224,
    "ConvNeXtTiny": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "NASNetMobile": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "Xception": 71,
}


def build(name, side):
    """Return a network with random weights and uneven population statistics."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    shape = (side, side, 3)
    if name == "BNInception":
        model = BNInception(input_shape=shape)
    else:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=shape, classifier_activation=None
        )
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, BATCH_NORMALIZATIONS):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(draw.normal(0, 0.3, shape))
            layer.moving_variance.assign(draw.uniform(0.5, 2, shape))
            if layer.gamma is not None:
                layer.gamma.assign(draw.uniform(0.5, 1.5, shape))
            if layer.beta is not None:
                layer.beta.assign(draw.normal(0, 0.3, shape))
    return model


def measure(name, side):
    """Fold one network, compare the outputs and return the measurements."""
    model = build(name, side)
    start = time.perf_counter()
    result = fold_batch_normalization(model)
    seconds = time.perf_counter() - start
    draw = np.random.default_rng(1)
    images = draw.uniform(-1, 1, (2, side, side, 3)).astype("float32")
    expected, actual = (np.array(x(images)) for x in (model, result.model))
    difference = np.abs(expected - actual).max() / np.abs(expected).max()
    reasons = {x.layer: x.reason for x in result.report.entries if x.reason}
    return {
        "network": name,
        "folded": result.report.folded,
        "left": result.report.left,
        "difference": float(f"{difference:.2g}"),
        "seconds": round(seconds, 2),
        "parameters before": model.count_params(),
        "parameters after": result.model.count_params(),
        "reasons": reasons,
    }


def main():
    """Print the table and, with `--json`, write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("networks", nargs="*", default=[], help="default: all")
    arguments = parser.parse_args()
    print(f"{'network':18} {'folded':>6} {'left':>5} {'difference':>11} {'seconds':>8}")
    rows = []
    for name in arguments.networks or NETWORKS:
        row = measure(name, NETWORKS.get(name, 224))
        rows.append(row)
        print(
            f"{name:18} {row['folded']:6} {row['left']:5} {row['difference']:11.1e} "
            f"{row['seconds']:8.2f}",
            flush=True,
        )
    if arguments.json:
        result = {**provenance("benchmarks.folding"), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
