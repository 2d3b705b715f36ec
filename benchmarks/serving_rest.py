"""The sections of the serving benchmark on large REST documents."""

import http.client
import json

import numpy as np

from benchmarks.serving_contenders import Contender
from benchmarks.serving_load import closed_loop
from benchmarks.serving_requests import TINY
from benchmarks.serving_sections import median, round_row, summary

PATH = f"/v1/models/{TINY.model}:predict"
# Sizes of documents; each number takes about eleven characters.
MEGABYTES = (1, 8, 32)
BESIDE = (1, 8, 32)
CHARACTERS = 11


def sizes(served, folder, effort):
    """Yield rows of large documents, and of gRPC calls with the same tensors."""
    from bn_keras_serving import PredictionClient

    connection = http.client.HTTPConnection(served.facts["rest"], timeout=120)
    rest, grpc = {}, {}
    with PredictionClient(served.facts["address"], TINY.model) as client:
        for _ in range(effort.rounds):
            for megabytes in MEGABYTES:
                for direction, (signature, array) in _requests(megabytes).items():
                    key = megabytes, direction
                    body = _document(signature, array)

                    def post(body=body):
                        connection.request("POST", PATH, body)
                        answer = connection.getresponse()
                        if answer.status != 200:
                            raise RuntimeError(answer.read())
                        answer.read()

                    def call(array=array, signature=signature):
                        client.predict(array, signature)

                    seconds = effort.network
                    rest.setdefault(key, []).append(
                        summary(closed_loop(post, 1, seconds, 2))
                    )
                    grpc.setdefault(key, []).append(
                        summary(closed_loop(call, 1, seconds, 2))
                    )
            yield [
                round_row(
                    {
                        "megabytes": megabytes,
                        "direction": direction,
                        "REST p50 ms": median(rest[key])["p50 ms"],
                        "gRPC p50 ms": median(grpc[key])["p50 ms"],
                        "REST / gRPC": median(rest[key])["p50 ms"]
                        / median(grpc[key])["p50 ms"],
                    }
                )
                for key in rest
                for megabytes, direction in [key]
            ]


def beside(served, folder, effort):
    """Yield rows of the tiny gRPC call, alone and while documents are posted."""
    poster = Contender(
        "poster", ["benchmarks.serving_processes", "poster", folder], folder
    )
    files = {}
    for megabytes in BESIDE:
        files[megabytes] = folder / f"{megabytes}.json"
        signature, array = _requests(megabytes)["in"]
        files[megabytes].write_text(_document(signature, array))
    summaries = {}
    try:
        for _ in range(effort.rounds):
            for megabytes in (None, *BESIDE):
                name = "nothing" if megabytes is None else f"{megabytes} MB documents"
                if megabytes is not None:
                    poster.ask([served.facts["rest"], PATH, str(files[megabytes])])
                load = served.closed_loop(TINY, 1, effort.open_loop, 4)
                row = summary(load)
                if megabytes is not None:
                    row["documents"] = poster.ask([])["posted"]
                summaries.setdefault(name, []).append(row)
            medians = {name: median(rows) for name, rows in summaries.items()}
            yield [
                round_row(
                    {
                        "beside": name,
                        **row,
                        "p50 / alone": row["p50 ms"] / medians["nothing"]["p50 ms"],
                        "p99 / alone": row["p99 ms"] / medians["nothing"]["p99 ms"],
                    }
                )
                for name, row in medians.items()
            ]
    finally:
        poster.close()


def _requests(megabytes):
    """Return the signature and the input of a large request for each direction."""
    rows = int(1e6 * megabytes / CHARACTERS / 4)
    array = np.random.default_rng(megabytes).random((rows, 4), np.float32)
    return {
        "in": ("total", array),
        "out": ("rows", np.float32(rows)),
        "in and out": (TINY.signature, array),
    }


def _document(signature, array):
    return json.dumps(
        {"signature_name": signature, "inputs": np.round(array, 8).tolist()}
    )
