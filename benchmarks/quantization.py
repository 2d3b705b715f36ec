"""Compare int8 and bfloat16 exports: `python -m benchmarks.quantization`.

BN-Inception in float32, bfloat16 and int8, Keras' own export, and the same network in
other runtimes where they are installed, take turns, one request each. Then networks of
keras.applications in float32 and int8 take turns. Every contender has its own process,
which reports the clock's seconds and the processor's: the latter change less with other
load. Weights are random, so the bound on the accuracy is off; what int8 costs on
trained networks is in `tests/quantization/test_trained_networks.py`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export import size_of
from benchmarks.quantization_contenders import (
    KIND,
    SIDE,
    draw_pixels,
    take_turns,
    write_other_formats,
)
from benchmarks.timing import provenance

NETWORKS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "VGG16")
OURS, KERAS = "bn_keras float32", "Keras float32"
# The operations that multiply, with the index of their weights.
PRODUCTS = {
    "_FusedQuantizedConv2D": 1,
    "_FusedQuantizedDepthwiseConv2D": 1,
    "_QuantizedMatMul": 1,
    "Conv2D": 1,
    "DepthwiseConv2dNative": 1,
    "MatMul": 1,
}


def export(model, folder, precision, examples):
    """Return the path of an export."""
    from bn_keras import export_saved_model

    options: dict[str, Any] = {}
    if precision == "int8":
        options = {"calibration": draw_pixels(examples), "accuracy": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no bound was set")
        return export_saved_model(
            model, folder / precision, precision=precision, **options
        )


def write_models(folder, examples):
    """Write BN-Inception in every format.

    Returns:
        `(kind, path)` by name, and the seconds of the int8 export.
    """
    from benchmarks.folding import build
    from bn_keras import fold_batch_normalization

    model = build("BNInception", SIDE)
    models, seconds = {}, {}
    for precision in ("float32", "bfloat16", "int8"):
        start, start_of_cpu = time.perf_counter(), time.process_time()
        models[f"bn_keras {precision}"] = (
            KIND,
            export(model, folder, precision, examples),
        )
        seconds[precision] = {
            "clock seconds": time.perf_counter() - start,
            "seconds of the processor": time.process_time() - start_of_cpu,
        }
    theirs = folder / "keras" / "1"
    model.export(theirs, format="tf_saved_model", verbose=False)
    models[KERAS] = (KIND, theirs)
    folded = fold_batch_normalization(model).model
    inputs = draw_pixels(64).astype(np.float32) / 255
    folded(inputs[:1])
    models.update(write_other_formats(folder, folded, inputs))
    return models, seconds


def relate(seconds, name, base):
    """Return the median ratios to another contender: the clock's, the processor's."""
    return [
        statistics.median(
            ours[place] / theirs[place]
            for ours, theirs in zip(seconds[name], seconds[base], strict=True)
        )
        for place in (0, 1)
    ]


def compare_networks(folder, rounds, examples):
    """Return the figures of int8 against float32 by network of keras.applications."""
    from benchmarks.folding import build

    results = {}
    for name in NETWORKS:
        model = build(name, SIDE)
        paths = {
            precision: export(model, folder / name, precision, examples)
            for precision in ("float32", "int8")
        }
        del model
        times, _ = take_turns({x: (KIND, y) for x, y in paths.items()}, rounds, (8,))
        clock, processor = relate(times[8], "int8", "float32")
        results[name] = {
            "clock": clock,
            "processor": processor,
            "size": size_of(paths["int8"]) / size_of(paths["float32"]),
            "int8 share": count_share(paths["int8"]),
        }
        print(name, {x: round(y, 3) for x, y in results[name].items()}, flush=True)
    return results


def count_share(path):
    """Return the share of multiply-adds in int8, counted from a published file."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default() as graph:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        (source,) = loaded.signature_def["serving_default"].inputs.values()
        nodes = [
            x
            for x in graph.get_operations()
            if x.type in PRODUCTS and x.name.startswith("serving_default/")
        ]
        fetches = [
            (tf.shape(x.outputs[0]), tf.shape(x.inputs[PRODUCTS[x.type]]))
            for x in nodes
        ]
    image = np.zeros((1, SIDE, SIDE, 3), np.float32)
    shapes = session.run(fetches, {source.name: image})
    counts = {"Quantized": 0, "": 0}
    for node, (output, weights) in zip(nodes, shapes, strict=True):
        positions = int(np.prod(output[1:-1]))
        kind = "Quantized" if "Quantized" in node.type else ""
        counts[kind] += positions * int(np.prod(weights))
    return counts["Quantized"] / sum(counts.values())


def serve_requests(paths, rounds):
    """Return the median seconds of a request through the server, by precision."""
    from benchmarks.serving_processes import free_port
    from bn_keras_serving.client import PredictionClient

    processes, clients = {}, {}
    inputs = np.float32(draw_pixels(1)) / 255
    try:
        for name, path in paths.items():
            port = free_port()
            processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bn_keras", "serve", "--port", str(port)),
                    *("--rest_api_port", "0", "--model_name", "m"),
                    *("--model_base_path", str(path.parent)),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            clients[name] = PredictionClient(
                f"127.0.0.1:{port}", "m", 120, wait_for_ready=True
            )
        seconds = {name: [] for name in paths}
        for client in clients.values():
            for _ in range(5):
                client.predict(inputs)
        for _ in range(rounds):
            for name, client in clients.items():
                start = time.perf_counter()
                client.predict(inputs)
                seconds[name].append(time.perf_counter() - start)
    finally:
        for client in clients.values():
            client.close()
        for process in processes.values():
            process.terminate()
            process.wait()
    return {name: statistics.median(values) for name, values in seconds.items()}


def describe_processor():
    """Return the model of the processor and its instructions for few bits."""
    lines = {
        key.strip(): value.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        for key, _, value in [line.partition(":")]
    }
    wanted = ("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "avx_vnni")
    found = [name for name in wanted if name in lines["flags"].split()]
    return f"{lines['model name']} with {', '.join(found) or 'none of ' + str(wanted)}"


def table(results, columns):
    """Return figures as a Markdown table."""
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, figures in results.items():
        cells = [f"{figures[x]:.2f}" if x in figures else "" for x in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Print the tables and, with `--json`, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--rounds", type=int, default=20, help="requests of each size")
    parser.add_argument("--examples", type=int, default=128, help="for calibration")
    parser.add_argument("--skip-networks", action="store_true")
    arguments = parser.parse_args()
    facts = provenance("benchmarks.quantization")
    facts |= {"processor": describe_processor(), "examples": arguments.examples}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models, seconds = write_models(folder, arguments.examples)
        times, answers = take_turns(models, arguments.rounds, (1, 8))
        results = {}
        largest = max(map(abs, answers[OURS]))
        for contender, (_, path) in models.items():
            difference = np.subtract(answers[contender], answers[OURS])
            results[contender] = {
                "size": size_of(path) / size_of(models[OURS][1]),
                "difference": float(np.abs(difference).max()) / largest,
            }
            for size in (1, 8):
                for base in (OURS, KERAS):
                    ratios = relate(times[size], contender, base)
                    for kind, ratio in zip(("clock", "processor"), ratios, strict=True):
                        label = f"{kind}, batch {size}, over {base.split()[0]}"
                        results[contender][label] = ratio
        columns = list(results[OURS])
        print(table(results, columns), flush=True)
        paths = {x: models[f"bn_keras {x}"][1] for x in ("float32", "int8")}
        facts |= {
            "BN-Inception": results,
            "export seconds": seconds,
            "int8 share": count_share(paths["int8"]),
            "request seconds": serve_requests(paths, 3 * arguments.rounds),
        }
        print(facts["export seconds"], facts["int8 share"], facts["request seconds"])
        if not arguments.skip_networks:
            facts["networks, batch 8"] = compare_networks(
                folder, max(arguments.rounds // 2, 5), arguments.examples // 4
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
