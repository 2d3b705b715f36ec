"""The page that compares four libraries."""

from docs.pages.markdown import HEADER, load, table

LIBRARIES = ("bn_keras", "Keras", "PyTorch", "Flax")


def comparison_page():
    """Return the page that compares four libraries."""
    facts, jax = load("comparison"), load("comparison_jax")
    rows = [
        [row["question"], *(row[library] for library in LIBRARIES)]
        for row in [*facts["rows"], *jax["rows"]]
    ]
    versions = facts["versions"]
    columns = [
        "",
        "bn-keras",
        f"Keras {versions['keras']}",
        f"PyTorch {versions['torch']}",
        f"Flax {versions['flax']}",
    ]
    return f"""\
{HEADER}
# Comparison with Keras, PyTorch and Flax

Every cell of this table was written by a program, `python -m benchmarks.comparison`
([its source](../benchmarks/comparison.py)), which does the same with each library. Keras and this package
ran on TensorFlow {versions["tensorflow"]}, except for the last row, which ran on JAX {versions["jax"]}.

{table(columns, rows)}

Documented by each library, not run here:

| | bn-keras | Keras | PyTorch | Flax |
| --- | --- | --- | --- | --- |
| statistics over several replicas | `synchronized=True`: merges count, mean and squared distances, so masks and unequal replicas are exact; tested with two processes | [`synchronized=True`](https://keras.io/api/layers/normalization_layers/batch_normalization/), TensorFlow only | [`SyncBatchNorm`](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html), GPUs only | [`axis_name`](https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html) |

What the differences mean in practice:

- **Variance at a large mean.** Keras computes the variance of few channels through
  `tf.nn.moments`, whose float32 sum over so many values is off by more than the standard
  deviation; with eight channels or more TensorFlow sums in another order and it is right. This
  layer subtracts a shift first, whatever the shape.
- **Unbiased statistics.** The paper stores `m / (m - 1)` times the biased variance.
  `BatchNormalization(unbiased=False)` stores Keras' value.
- **Second derivatives.** See [the measurements](performance.md#second-derivatives).
"""
