"""Fold networks of keras.applications and keras-hub: `python -m benchmarks.folding`.

Weights and statistics are random, since folding does not depend on their meaning. The
table lists for each network the batch normalizations folded and left, the largest
difference of the output relative to its largest value, the seconds of the processor for
folding, and those without the comparison that folding ends with. Networks of keras-hub
are skipped where it is not installed.
"""

import argparse
import importlib.util
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

# Small networks of keras-hub that consist of subclassed layers, or of many branches.
BACKBONES = {
    "MobileNetBackbone": {
        "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
        "stackwise_num_blocks": [2, 3, 2, 3],
        "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
        "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
        "stackwise_se_ratio": [[None] * 2, [0.25] * 3, [0.25] * 2, [0.25] * 3],
        "stackwise_activation": [
            ["relu"] * 2,
            *(["hard_swish"] * count for count in (3, 2, 3, 1)),
        ],
        "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
        "output_num_filters": 1024,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
        "input_num_filters": 16,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "squeeze_and_excite": 0.5,
        "last_layer_filter": 288,
    },
    "HGNetV2Backbone": {
        "depths": [1, 1, 3, 1],
        "embedding_size": 32,
        "hidden_sizes": [128, 512, 1024, 2048],
        "stem_channels": [3, 32, 48],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [
            [48, 48, 128, 1, 6, 3],
            [128, 96, 512, 1, 6, 3],
            [512, 192, 1024, 3, 6, 5],
            [1024, 384, 2048, 1, 6, 5],
        ],
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
        "out_features": ["stage4"],
    },
    "ResNetBackbone": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [2, 2, 2, 2],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "basic_block",
    },
    "CSPNetBackbone": {
        "stem_filters": 32,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_strides": 2,
        "stackwise_depth": [1, 2, 8],
        "stackwise_num_filters": [16, 24, 48],
        "down_growth": True,
        "bottle_ratio": (0.5, 1.0),
        "block_ratio": (1.0, 0.5),
        "expand_ratio": (2.0, 1.0),
        "block_type": "dark_block",
        "stage_type": "csp",
        "stem_padding": "same",
    },
}


def build_backbone(name, side):
    """Return a network of keras-hub, or None where keras-hub is not installed."""
    if importlib.util.find_spec("keras_hub") is None:
        return None
    models = importlib.import_module("keras_hub.models")
    return getattr(models, name)(**BACKBONES[name], image_shape=(side, side, 3))


def build(name, side):
    """Return a network with random weights and uneven population statistics.

    None means that the package that it belongs to is not installed.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    shape = (side, side, 3)
    if name in BACKBONES:
        model = build_backbone(name, side)
    elif name == "BNInception":
        model = BNInception(input_shape=shape)
    else:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=shape, classifier_activation=None
        )
    if model is None:
        return None
    draw = np.random.default_rng(0)
    # Keras has no public way to reach the layers inside subclassed layers.
    for layer in model._flatten_layers():
        if isinstance(layer, BATCH_NORMALIZATIONS):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(draw.normal(0, 0.3, shape))
            layer.moving_variance.assign(draw.uniform(0.5, 2, shape))
            if layer.gamma is not None:
                layer.gamma.assign(draw.uniform(0.5, 1.5, shape))
            if layer.beta is not None:
                layer.beta.assign(draw.normal(0, 0.3, shape))
    return model


def run(model, images):
    """Return a list of a model's outputs, as arrays."""
    outputs = keras.tree.flatten(model(images, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in outputs]


def measure(name, side):
    """Fold one network, compare the outputs and return the measurements, or None."""
    model = build(name, side)
    if model is None:
        return None
    draw = np.random.default_rng(1)
    images = draw.uniform(-1, 1, (2, side, side, 3)).astype("float32")
    expected = run(model, images)
    seconds, result = {}, None
    for check in (False, True):
        start = time.process_time()
        result = fold_batch_normalization(model, check=check)
        seconds[check] = round(time.process_time() - start, 2)
    pairs = zip(expected, run(result.model, images), strict=True)
    difference = max(np.abs(x - y).max() / np.abs(x).max() for x, y in pairs)
    reasons = {x.layer: x.reason for x in result.report.entries if x.reason}
    return {
        "network": name,
        "folded": result.report.folded,
        "left": result.report.left,
        "difference": float(f"{difference:.2g}"),
        "seconds": seconds[True],
        "seconds without comparison": seconds[False],
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
    print(
        f"{'network':18} {'folded':>6} {'left':>5} {'difference':>11} {'seconds':>8} "
        f"{'alone':>8}"
    )
    rows = []
    for name in arguments.networks or [*NETWORKS, *BACKBONES]:
        row = measure(name, NETWORKS.get(name, 64 if name in BACKBONES else 224))
        if row is None:
            print(f"{name:18} skipped: keras-hub is not installed", flush=True)
            continue
        rows.append(row)
        print(
            f"{name:18} {row['folded']:6} {row['left']:5} {row['difference']:11.1e} "
            f"{row['seconds']:8.2f} {row['seconds without comparison']:8.2f}",
            flush=True,
        )
    if arguments.json:
        result = {**provenance("benchmarks.folding"), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
