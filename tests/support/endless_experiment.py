"""An experiment of two parts, of which the second never ends; see `test_reproduce`."""

import time

from bn_keras.experiments.parts import Part, measure


def last(directories, folder, seed):
    if seed:
        (folder / "begun").touch()
        time.sleep(600)
    return seed


class Endless:
    """Stands for a module."""

    TITLE, PLANS = "Endless", {"smoke": None}

    @staticmethod
    def run(workdir, scale, directories, jobs, on_part):
        parts = [Part(f"seed{n}", last, {"seed": n}) for n in range(2)]
        return measure(parts, workdir, directories, jobs, on_part)
