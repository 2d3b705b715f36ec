"""An experiment of two parts, the second of which never ends; see `test_reproduce`."""

import time

from bn_keras.experiments.experiment import Experiment
from bn_keras.experiments.parts import Part


def last(directories, folder, seed):
    if seed:
        (folder / "begun").touch()
        time.sleep(600)
    return seed


def rounds(seeds):
    yield [Part(f"seed{n}", last, {"seed": n}) for n in range(seeds)]


EXPERIMENT = Experiment("endless", "Endless", {"smoke": 2}, rounds, None, None)
