"""Outputs and statistics of the layer on the backend of this process.

As a program: `python layer_on_backend.py INPUTS.npz RESULTS.npz`.
"""

import sys

import numpy as np

MEANS = (0, 1000)


def run(inputs):
    """Return the results of one training step and of inference, for each mean.

    Args:
        inputs: A mapping with the arrays `x`, `gamma` and `beta`.

    Returns:
        A dict from `"mean/name"` to arrays.
    """
    from bn_keras import BatchNormalization

    results = {}
    for mean in MEANS:
        layer = BatchNormalization(momentum=0.0)
        layer.build(inputs["x"].shape)
        layer.gamma.assign(inputs["gamma"].ravel())
        layer.beta.assign(inputs["beta"].ravel())
        x = inputs["x"] + np.float32(mean)
        results[f"{mean}/outputs"] = np.asarray(layer(x, training=True))
        results[f"{mean}/mean"] = np.asarray(layer.moving_mean)
        results[f"{mean}/variance"] = np.asarray(layer.moving_variance)
        results[f"{mean}/inference"] = np.asarray(layer(x))
    return results


if __name__ == "__main__":
    np.savez(sys.argv[2], **run(np.load(sys.argv[1])))
    import keras

    assert "jax" in sys.modules or keras.backend.backend() != "jax"
    # `keras` may register TensorFlow as a lazy module, but must not load it.
    if keras.backend.backend() != "tensorflow":
        assert not hasattr(sys.modules.get("tensorflow"), "nn")
