"""Draw the pictures of the documentation, for `python -m docs.pages`.

Each picture is a small SVG file of plain shapes and text, drawn from what was measured
(`benchmarks/results/`) or from a model that is folded on the spot.
"""

import html
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FOLDER = ROOT / "docs" / "pictures"

INK, GREY, GRID = "#1c1c1c", "#667085", "#d9dee7"
BLUE, ORANGE, SLATE = "#2563eb", "#d97706", "#94a3b8"
FILL = {"BatchNormalization": "#fde8c8", "folded": "#dbe7fd", "other": "#f3f5f8"}
STROKE = {"BatchNormalization": ORANGE, "folded": BLUE, "other": SLATE}


class Svg:
    """A drawing, as a list of SVG elements on a white ground.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        description: The words for readers who do not see the picture.
    """

    def __init__(self, width, height, description):
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
            'sans-serif">',
            f"<title>{html.escape(description)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def text(self, x, y, words, size=13, anchor="start", fill=INK, weight="normal"):
        """Write words with their baseline at `y`."""
        self.lines.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{fill}" font-weight="{weight}">{html.escape(words)}</text>'
        )

    def rect(self, x, y, width, height, fill, stroke="none", radius=0.0):
        """Draw a rectangle with its upper left corner at `(x, y)`."""
        self.lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="{radius:g}" fill="{fill}" stroke="{stroke}"/>'
        )

    def line(self, points, stroke, width=1.5, dash="", arrow=False):
        """Draw straight lines from point to point."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" '
            f'stroke-width="{width:g}" stroke-linejoin="round"{dashes}/>'
        )
        if arrow:  # Every arrow of these pictures points down.
            x, y = points[-1]
            self.lines.append(
                f'<path d="M{x - 4:g},{y - 6:g} L{x:g},{y:g} L{x + 4:g},{y - 6:g} Z" '
                f'fill="{stroke}"/>'
            )

    def save(self, name):
        """Write the picture to the folder of pictures."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text("\n".join([*self.lines, "</svg>"]) + "\n")


def residual_block():
    """Return a model of one residual block with a projection, as in ResNet-50."""
    import keras
    from keras import layers

    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((32, 32, 16), name="input")
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="conv 3x3")(inputs)
    x = layers.BatchNormalization(name="BN 1")(x)
    x = layers.ReLU(name="ReLU")(x)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv 3x3 ")(x)
    x = layers.BatchNormalization(name="BN 2")(x)
    y = layers.Conv2D(32, 1, 2, use_bias=False, name="conv 1x1")(inputs)
    y = layers.BatchNormalization(name="BN 3")(y)
    outputs = layers.ReLU(name="ReLU ")(layers.Add(name="add")([x, y]))
    return keras.Model(inputs, outputs)


def predecessors(model):
    """Return a dict from each layer to the layers whose outputs it takes."""
    makers = {}
    for layer in model.layers:
        for tensor in _tensors(layer.output):
            makers[id(tensor)] = layer
    return {
        layer: [
            makers[id(tensor)]
            for tensor in (_tensors(layer.input) if _takes_inputs(layer) else [])
        ]
        for layer in model.layers
    }


def _tensors(structure):
    return structure if isinstance(structure, list | tuple) else [structure]


def _takes_inputs(layer):
    return type(layer).__name__ != "InputLayer"


def draw_folding():
    """Draw a residual block before and after folding, from the models themselves."""
    from bn_keras import fold_batch_normalization

    model = residual_block()
    result = fold_batch_normalization(model)
    folded = {path for entry in result.report.entries for path in entry.into}
    picture = Svg(
        720,
        510,
        "A residual block with three batch normalizations, and the same block after "
        "folding: two convolutions, one projection, an addition and ReLUs.",
    )
    report = result.report
    counts = [len(one.layers) - 1 for one in (model, result.model)]  # without the input
    _draw_graph(picture, model, 40, f"Before: {counts[0]} layers", set())
    _draw_graph(picture, result.model, 400, f"After: {counts[1]} layers", folded)
    picture.text(
        360,
        496,
        f"fold_batch_normalization: {report.folded} folded, {report.left} left; "
        "equal answers within rounding",
        12,
        "middle",
        GREY,
    )
    picture.save("folding.svg")


def _draw_graph(picture, model, left, title, folded):
    """Draw the calls of a model from top to bottom, the longest path on the left."""
    inputs = predecessors(model)
    depth = {}

    def depth_of(layer):
        if layer not in depth:
            depth[layer] = max((depth_of(one) + 1 for one in inputs[layer]), default=0)
        return depth[layer]

    last = max(model.layers, key=depth_of)
    # The main path: from the output back along the deepest predecessor.
    path, layer = set(), last
    while True:
        path.add(layer)
        if not inputs[layer]:
            break
        layer = max(inputs[layer], key=depth_of)
    rows = depth[last] + 1
    step = 400 / max(rows - 1, 1)
    width, height = 124, 30
    picture.text(left + 130, 26, title, 15, "middle", INK, "600")

    def place(layer):
        column = 0 if layer in path else 1
        center = left + 62 + 140 * column
        if not inputs[layer] or (layer in path and depth[layer] >= rows - 2):
            center = left + 130  # What both branches share.
        return center, 44 + step * depth[layer]

    for layer, sources in inputs.items():
        x, y = place(layer)
        for source in sources:
            x0, y0 = place(source)
            points = [(x0, y0 + height), (x, y)]
            if x0 != x:
                merges = len(sources) > 1
                bend = y - 14 if merges else y0 + height + 12
                points = [(x0, y0 + height), (x0, bend), (x, bend), (x, y)]
            picture.line(points, GREY, arrow=True)
    for layer in model.layers:
        x, y = place(layer)
        kind = "folded" if layer.path in folded or layer.name in folded else "other"
        if type(layer).__name__ == "BatchNormalization":
            kind = "BatchNormalization"
        picture.rect(x - width / 2, y, width, height, FILL[kind], STROKE[kind], 5)
        words = layer.name.strip() + (", bias" if kind == "folded" else "")
        picture.text(x, y + 20, words, 13, "middle")


def draw_export():
    """Draw latency and size of this package's exports, relative to Keras' own."""
    facts = json.loads((RESULTS / "quantization.json").read_text())
    results = facts["BN-Inception"]
    names = {
        "Keras float32": "Keras' export",
        "bn_keras float32": "folded",
        "bn_keras bfloat16": "folded, bfloat16",
        "bn_keras int8": "folded, int8",
    }
    columns = ["latency, batch 1", "latency, batch 8", "size on disk"]
    size = results["Keras float32"]["size"]
    values = {
        name: [
            results[name]["clock, batch 1, over Keras"],
            results[name]["clock, batch 8, over Keras"],
            results[name]["size"] / size,
        ]
        for name in names
    }
    picture = Svg(
        720,
        84 + 46 * len(names),
        "Latency and size of BN-Inception, exported by Keras and by this package in "
        "float32, bfloat16 and int8, relative to Keras' export.",
    )
    picture.text(20, 26, "BN-Inception, 224 x 224, two CPU cores", 15, weight="600")
    words = "relative to Keras' export; shorter is better"
    picture.text(700, 26, words, 13, "end", GREY)
    for column, title in enumerate(columns):
        left = 20 + 236 * column
        picture.text(left, 54, title, 13, fill=GREY)
        for row, (name, words) in enumerate(names.items()):
            top = 66 + 46 * row
            ratio = values[name][column]
            color = SLATE if name.startswith("Keras") else BLUE
            picture.rect(left, top, 206 * min(ratio, 1), 14, color, radius=3)
            picture.text(left, top + 31, f"{words}: {ratio:.2f}", 13)
    picture.save("export.svg")


def draw_figure_1():
    """Draw figure 1(a) of the paper: test accuracy against steps."""
    facts = json.loads((RESULTS / "reproduce" / "mnist.json").read_text())
    measured = facts["measurements"]
    steps = np.array(measured["steps"])
    picture = Svg(
        720,
        330,
        "Test accuracy on MNIST against training steps, with and without batch "
        "normalization: with it the network learns faster and ends higher.",
    )
    left, right, top, bottom = 60, 690, 40, 284
    low, high = 0.7, 1.0

    def x(step):
        return left + (right - left) * step / steps[-1]

    def y(accuracy):
        return bottom - (bottom - top) * (np.clip(accuracy, low, high) - low) / (
            high - low
        )

    seeds = len(measured["networks"]["bn-mlp"]["accuracy"])
    picture.text(
        left, 24, f"Figure 1(a), measured again: MNIST, {seeds} seeds", 15, weight="600"
    )
    for accuracy in (0.7, 0.8, 0.9, 1.0):
        picture.line([(left, y(accuracy)), (right, y(accuracy))], GRID, 1)
        picture.text(left - 8, y(accuracy) + 4, f"{accuracy:.0%}", 12, "end", GREY)
    for step in range(0, int(steps[-1]) + 1, 10_000):
        picture.text(x(step), bottom + 18, f"{step:,}", 12, "middle", GREY)
    picture.text((left + right) / 2, bottom + 38, "training steps", 12, "middle", GREY)
    curves = {"mlp": ("without BN", ORANGE), "bn-mlp": ("with BN", BLUE)}
    for name, (words, color) in curves.items():
        mean = np.mean(measured["networks"][name]["accuracy"], axis=0)
        shown = np.flatnonzero(mean >= low)
        points = [(x(steps[i]), y(mean[i])) for i in shown]
        picture.line(points, color, 2, "6 4" if name == "mlp" else "")
        at = int(np.searchsorted(steps, 22_000))
        drop = 26 if name == "mlp" else -10
        picture.text(
            x(steps[at]), y(mean[at]) + drop, words, 13, "middle", color, "600"
        )
    picture.save("figure_1.svg")


def draw_all():
    """Draw them all."""
    draw_folding()
    draw_export()
    draw_figure_1()
