"""The server against the number of clients and models, and the size of a request."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.processes import Growth, measure
from benchmarks.serving_load import closed_loop

REQUESTS = 400


def write_model(folder, width=64, **options):
    """Export a small dense model and return its folder."""
    import keras

    from bn_keras import export_saved_model

    model = keras.Sequential([keras.Input((width,), name="x"), keras.layers.Dense(8)])
    export_saved_model(model, folder, **options)
    return folder


def by_clients(clients):
    """Measure a number of requests from clients that each wait for their answers."""
    from bn_keras_serving import PredictionClient, PredictionServer

    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model")
        with (
            PredictionServer(path, "model", port=0) as server,
            PredictionClient(server.address, "model") as client,
        ):
            x = np.zeros((1, 64), np.float32)
            client.predict(x)
            loads = []

            def work():
                loads.append(
                    closed_loop(lambda: client.predict(x), clients, 0, REQUESTS)
                )

            figures = measure(work)
    return {
        "clock seconds of one request": figures["clock seconds"] / REQUESTS,
        "latency, median, ms": loads[0].percentile(50),
        "MB": figures["MB"],
    }


def by_models(models):
    """Measure starting a server with a number of models."""
    from bn_keras_serving import PredictionServer

    with tempfile.TemporaryDirectory() as folder:
        first = write_model(Path(folder) / "model_0")
        lines = []
        for number in range(models):
            path = first.with_name(f"model_{number}")
            if number:
                shutil.copytree(first, path)
            lines.append(
                f'config {{ name: "{path.name}" base_path: "{path}" '
                'model_platform: "tensorflow" }'
            )
        config = Path(folder) / "models.config"
        config.write_text(f"model_config_list {{ {' '.join(lines)} }}")
        with PredictionServer(first, port=0):
            pass  # what the first model loads of TensorFlow does not count
        server = PredictionServer(config=config, port=0)
        figures = measure(server.start)
        server.stop()
    return figures


def by_payload(kilobytes):
    """Measure a request and its answer against the size of the request."""
    from bn_keras_serving import PredictionClient, PredictionServer

    with tempfile.TemporaryDirectory() as folder:
        width = 256
        path = write_model(Path(folder) / "model", width)
        with (
            PredictionServer(path, "model", port=0) as server,
            PredictionClient(server.address, "model") as client,
        ):
            x = np.zeros((max(1, kilobytes * 1000 // (4 * width)), width), np.float32)
            client.predict(x)
            count = 20
            figures = measure(lambda: [client.predict(x) for _ in range(count)])
    return {
        "clock seconds of one request": figures["clock seconds"] / count,
        "MB": figures["MB"],
    }


CLIENTS = Growth((1, 4, 16, 32), {"requests": by_clients})
MODELS = Growth((1, 4, 16, 32), {"start": by_models})
PAYLOAD = Growth((1, 100, 10_000, 50_000), {"request": by_payload})
