"""Compare an export of BN-Inception with Keras' own: `python -m benchmarks.export`.

Measure the bytes on disk, the latency, the seconds and memory of loading, and the
memory of each signature, of the embedded server and of exporting. ONNX Runtime and
OpenVINO run the same folded network where they are installed. Every runtime has its own
process and its default number of threads. They take turns, one request each, so that
other load on the machine affects all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import export_memory, processes
from benchmarks.timing import provenance

KIND = "savedmodel"
BATCHES = (1, 8)
SIDE = 224


def write_models(folder):
    """Write the network in every format; return `(kind, path)` by name."""
    from benchmarks.folding import build
    from bn_keras import export_saved_model, fold_batch_normalization

    # The statistics are uneven. Those of an untrained network would fold into biases of
    # zero, and TensorFlow would remove the additions.
    model = build("BNInception", SIDE)
    ours = export_saved_model(model, folder / "ours")
    constants = export_saved_model(model, folder / "constants", constants=True)
    theirs = folder / "keras" / "1"
    model.export(theirs, format="tf_saved_model", verbose=False)
    models = {
        "bn_keras": (KIND, ours),
        "bn_keras, constants": (KIND, constants),
        "Keras": (KIND, theirs),
    }
    if find_spec("tf2onnx") and (find_spec("onnxruntime") or find_spec("openvino")):
        path = folder / "model.onnx"
        folded = fold_batch_normalization(model).model
        folded.export(path, format="onnx", verbose=False)
        if find_spec("onnxruntime"):
            models["ONNX Runtime"] = ("onnxruntime", path)
        if find_spec("openvino"):
            models["OpenVINO"] = ("openvino", path)
    return models


def load(kind, path):
    """Return a function from a batch of images to the outputs of the network."""
    if kind == KIND:
        import tensorflow as tf

        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
        signature = graph.signature_def["serving_default"]
        (source,), (target,) = signature.inputs.values(), signature.outputs.values()
        return lambda images: session.run(target.name, {source.name: images})
    if kind == "onnxruntime":
        import onnxruntime  # pyright: ignore[reportMissingImports]

        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})[0]
    import openvino  # pyright: ignore[reportMissingImports]

    # The default rounds to bfloat16 on some processors.
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: model(images)[0]


def serve(kind, path):
    """Load, run once, then run the batch sizes that are read from standard input."""
    # Every server of that kind has imported these, so they are not measured.
    __import__("tensorflow" if kind == KIND else kind)
    before = processes.peak()
    start = time.perf_counter()
    run = load(kind, path)
    loaded, loading = time.perf_counter() - start, processes.peak() - before
    images = {
        size: np.random.default_rng(size).random((size, SIDE, SIDE, 3), np.float32)
        for size in BATCHES
    }
    first = run(images[1])
    report = {
        "load": loaded,
        "ready": time.perf_counter() - start,
        "loading": loading,
        "peak": processes.peak() - before,
        "answer": np.asarray(first)[0, :8].tolist(),
    }
    print(json.dumps(report), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(images[int(line)])
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A runtime in its own process."""

    def __init__(self, kind, path):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.export", "--serve", kind, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
        )
        self.report = json.loads(self._line())

    def _line(self):
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"the process ended: {self.process.args}")
        return line

    def ask(self, size):
        """Return the seconds of one request."""
        assert self.process.stdin
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self):
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def size_of(path):
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    return sum(file.stat().st_size for file in files)


def measure(models, rounds, loads):
    """Return the medians by runtime and figure, and the same relative to Keras'."""
    relative = {name: {} for name in models}
    results = {name: {"bytes": size_of(path)} for name, (_, path) in models.items()}
    reports = {name: [] for name in models}
    workers = {}
    for turn in range(loads):
        workers = {name: Worker(*model) for name, model in models.items()}
        for name, worker in workers.items():
            reports[name].append(worker.report)
            if turn < loads - 1:
                worker.close()
    for name, name_reports in reports.items():
        for key, label in (
            ("load", "load seconds"),
            ("ready", "load and first answer, seconds"),
            ("loading", "load peak MB"),
            ("peak", "load and first answer, peak MB"),
        ):
            results[name][label] = statistics.median(x[key] for x in name_reports)
    expected = reports["Keras"][0]["answer"]
    for name, name_reports in reports.items():
        np.testing.assert_allclose(
            name_reports[0]["answer"], expected, rtol=1e-3, err_msg=name
        )
    for size in BATCHES:
        times = {name: [] for name in workers}
        for turn in range(rounds + 5):
            for name, worker in workers.items():
                seconds = worker.ask(size)
                time.sleep(0.01)  # Let threads that spin for more work go to sleep.
                if turn >= 5:
                    times[name].append(seconds)
        for name, seconds in times.items():
            label = f"latency, batch {size}"
            results[name][label] = statistics.median(seconds)
            # The median of the ratios in each turn, not the ratio of the medians:
            # load that slows a whole turn cancels out.
            relative[name][label] = statistics.median(
                ours / theirs
                for ours, theirs in zip(seconds, times["Keras"], strict=True)
            )
    for name, figures in results.items():
        for label, value in figures.items():
            relative[name].setdefault(label, value / results["Keras"][label])
    for worker in workers.values():
        worker.close()
    return results, relative


def table(relative):
    """Return the figures relative to Keras' export as a Markdown table."""
    lines = [
        f"| | {' | '.join(relative)} |",
        "|---|" + "---|" * len(relative),
    ]
    for label in relative["Keras"]:
        cells = [f"{ratios[label]:.2f}" for ratios in relative.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_table(memory):
    """Return the figures of `export_memory.measure` as a Markdown table."""
    lines = [f"| | {' | '.join(memory)} |", "|---|" + "---|" * len(memory)]
    for label in memory["bn_keras"]:
        cells = [f"{x[label]:.1f}" if label in x else "" for x in memory.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Print the table and, with `--json`, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--rounds", type=int, default=40, help="requests of each size")
    parser.add_argument(
        "--loads", type=int, default=3, help="processes of each runtime"
    )
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder))
        results, relative = measure(models, arguments.rounds, arguments.loads)
        export_memory.write_tiny_model(Path(folder))
        saved_models = {x: path for x, (kind, path) in models.items() if kind == KIND}
        memory = export_memory.measure(saved_models)
    print(f"Relative to Keras' own export, BN-Inception {SIDE} x {SIDE}:\n")
    print(table(relative))
    print("\nMemory in MB, and the seconds of exporting:\n")
    print(memory_table(memory))
    if arguments.json:
        facts = {
            **provenance("benchmarks.export"),
            "results": results,
            "relative to Keras": relative,
            "memory, MB": memory,
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
