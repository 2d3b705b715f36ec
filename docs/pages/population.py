"""The section on the estimate of population statistics."""

from bn_keras.population.estimation import METHODS
from docs.pages.markdown import load, number, source, table


def population_section():
    """Return the section on the speed of `estimate_population_statistics`."""
    facts = load("population")
    rows = [
        [
            name,
            case["normalizations"],
            f"`{tuple(case['batch'])}`",
            number(case["forward_ms"]),
            *(_ratio(case["methods"].get(m)) for m in METHODS),
            number(case["methods"]["pooled"]["seconds_of_few"], 2),
        ]
        for name, case in facts["cases"].items()
    ]
    columns = ["network", "normalizations", "mini-batch", "forward pass, ms"]
    columns += [f'"{method}"' for method in METHODS]
    columns.append(f"first {facts['few']}, s")
    return f"""\
## Population statistics

The time that `estimate_population_statistics` takes for each mini-batch, in multiples of
a compiled forward pass in inference mode. The first mini-batches take longer, because the
pass is compiled; the last column is that of "pooled". "layerwise" reads the data once for
each layer, so its time grows with the square of their number.

{table(columns, rows)}

{source(facts, "population")}
"""


def _ratio(times):
    return "-" if times is None else f"{times['of_forward']:.2f}"
