"""Run Keras' own tests of batch normalization against this package's layer.

As a program: `python keras_own_tests.py FILE` prints a JSON object with the number of
tests and the text of each failure. A program of its own, because the file uses marks
that this project's pytest does not know. Only the class of the layer is not Keras'.
"""

import importlib.util
import json
import sys
import unittest
import warnings

import keras
from keras.src import layers

from bn_keras import BatchNormalization


@keras.saving.register_keras_serializable("tests")
class BiasedBatchNormalization(BatchNormalization):
    """The layer with Keras' definition of the moving variance as the default."""

    def __init__(self, *args, unbiased=False, **kwargs):
        super().__init__(*args, unbiased=unbiased, **kwargs)


def main(path):
    """Run the tests of a file."""
    warnings.simplefilter("ignore")  # unknown marks
    layers.BatchNormalization = BiasedBatchNormalization
    spec = importlib.util.spec_from_file_location("keras_own_tests", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["keras_own_tests"] = module
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    problems = {
        case.id().rpartition(".")[2]: text[-2000:]
        for case, text in [*result.failures, *result.errors]
    }
    text = json.dumps({"run": result.testsRun, "problems": problems})
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
