"""The contenders of `benchmarks.quantization`, each in a process of its own."""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np

KIND = "savedmodel"
SIDE = 224


def draw_pixels(count, side=SIDE):
    """Return random images of some contrast, in which neighbors are alike."""
    draw = np.random.default_rng(count)
    small = draw.integers(0, 256, (count, side // 16, side // 16, 3))
    return small.repeat(16, 1).repeat(16, 2).astype(np.uint8)


def write_other_formats(folder, model, inputs):
    """Write a folded model for the runtimes that are installed.

    Returns:
        `(kind, path)` by name.
    """
    models = {}
    if find_spec("onnxruntime") and find_spec("tf2onnx"):
        from onnxruntime import quantization  # pyright: ignore

        plain, rounded = folder / "model.onnx", folder / "int8.onnx"
        model.export(plain, format="onnx", verbose=False)

        class Reader(quantization.CalibrationDataReader):
            def __init__(self):
                import onnxruntime  # pyright: ignore

                session = onnxruntime.InferenceSession(plain)
                self._name = session.get_inputs()[0].name
                self._rows = iter(inputs)

            def get_next(self):  # pyright: ignore - None ends the rows
                row = next(self._rows, None)
                return None if row is None else {self._name: row[None]}

        quantization.quantize_static(
            plain,
            rounded,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        models["ONNX Runtime float32"] = ("onnxruntime", plain)
        models["ONNX Runtime int8"] = ("onnxruntime", rounded)
        if find_spec("openvino"):
            models["OpenVINO float32"] = ("openvino-f32", plain)
            models["OpenVINO bfloat16"] = ("openvino-bf16", plain)
            # OpenVINO reads the integers of that file.
            models["OpenVINO int8"] = ("openvino-f32", rounded)
    if find_spec("ai_edge_litert"):
        import tensorflow as tf

        for precision in ("float32", "int8"):
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            if precision == "int8":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: ([x[None]] for x in inputs)
            path = folder / f"{precision}.tflite"
            path.write_bytes(converter.convert())
            models[f"LiteRT {precision}"] = ("litert", path)
    return models


def load(kind, path):
    """Return a function from a batch of images to the outputs of the network."""
    if kind in (KIND, "onnxruntime"):
        from benchmarks.export import load as load_as_there

        return load_as_there(kind, path)
    if kind == "litert":
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore

        interpreter = Interpreter(path, num_threads=os.cpu_count())
        interpreter.allocate_tensors()
        (source,) = interpreter.get_input_details()
        (target,) = interpreter.get_output_details()

        def run(images):
            if list(interpreter.get_input_details()[0]["shape"]) != list(images.shape):
                interpreter.resize_tensor_input(source["index"], images.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], images)
            interpreter.invoke()
            return interpreter.get_tensor(target["index"])

        return run
    import openvino  # pyright: ignore

    precision = kind.removeprefix("openvino-")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: model(images)[0]


def serve(kind, path):
    """Answer batch sizes that are read from standard input with two times."""
    run = load(kind, path)
    images = {}
    for line in sys.stdin:
        size = int(line)
        if size not in images:
            images[size] = draw_pixels(size).astype(np.float32) / 255
            answer = None
            for _ in range(3):
                answer = run(images[size])
            print(json.dumps(np.asarray(answer)[0].tolist()), flush=True)
            continue
        start, start_of_cpu = time.perf_counter(), time.process_time()
        run(images[size])
        print(
            json.dumps(
                [time.perf_counter() - start, time.process_time() - start_of_cpu]
            ),
            flush=True,
        )


class Worker:
    """A contender in its own process."""

    def __init__(self, kind, path):
        command = [sys.executable, "-m", "benchmarks.quantization_contenders"]
        self.process = subprocess.Popen(
            [*command, kind, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
        )

    def ask(self, size):
        """Return what the process prints for a batch size."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended: {self.process.args}")
        return json.loads(line)

    def close(self):
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def take_turns(models, rounds, batches):
    """Return the medians of each contender by batch size, and its answers."""
    workers = {name: Worker(*model) for name, model in models.items()}
    times, answers = {}, {}
    for size in batches:
        answers = {name: worker.ask(size) for name, worker in workers.items()}
        seconds = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.ask(size))
                time.sleep(0.01)  # Let threads that spin for more work go to sleep.
        times[size] = seconds
    for worker in workers.values():
        worker.close()
    return times, answers


def main():
    """Answer as one contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", help="the runtime")
    parser.add_argument("path", help="the network")
    arguments = parser.parse_args()
    serve(arguments.kind, arguments.path)


if __name__ == "__main__":
    main()
