"""How time and memory grow with the size of a problem: `python -m benchmarks.growth`.

Folding, exporting and loading against the layers and the weights of a model, the server
against clients, models and payloads, the data against files. Every figure is from a
process of its own. The slope is that of a line through the larger half of the sizes on
logarithmic axes: a slope of 1 is linear growth.
"""

import argparse
import json
from pathlib import Path

from benchmarks import growth_data, growth_layers, growth_serving, growth_weights
from benchmarks.processes import in_child, slope
from benchmarks.timing import provenance

SECTIONS = {
    "layers": growth_layers.LAYERS,
    "MB of weights": growth_weights.WEIGHTS,
    "MB of constants": growth_weights.CONSTANTS,
    "clients": growth_serving.CLIENTS,
    "models": growth_serving.MODELS,
    "kB of a request": growth_serving.PAYLOAD,
    "files": growth_data.FILES,
}
# Less memory is that of a few pages more or less.
LEAST_MB = 1.0


def measure(section, task, largest):
    """Return the figures of a task at each size, and their slopes."""
    sizes = [x for x in SECTIONS[section].sizes if largest is None or x <= largest]
    runs = []
    for size in sizes:
        try:
            runs.append(in_child("benchmarks.growth", "--child", section, task, size))
        except RuntimeError as error:  # such as a process that was killed
            print(f"{task}, {size} {section}: {error}", flush=True)
            break
    sizes = sizes[: len(runs)]
    row = {"task": task, section: sizes}
    # Other programs on the machine change the seconds of the clock more.
    figures = [x for x in (runs[0] if runs else ()) if x != "clock seconds"]
    for figure in figures:
        values = [run[figure] for run in runs]
        row[figure] = [float(f"{value:.4g}") for value in values]
        if len(sizes) > 1:
            least = LEAST_MB if figure.startswith("MB") else 1e-6
            row[f"slope of {figure}"] = slope(sizes, [max(x, least) for x in values])
    return row


def table(section, row):
    """Return the figures of a task as a Markdown table."""
    sizes = [f"{size:,}" for size in row[section]]
    lines = [f"| {row['task']}, {section} | {' | '.join(sizes)} | slope |"]
    lines.append("|---|" + "---|" * (len(sizes) + 1))
    for figure, values in row.items():
        if isinstance(values, list) and figure != section:
            cells = [f"{value:g}" for value in values]
            cells.append(str(row.get(f"slope of {figure}", "")))
            lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Print the tables and, with `--json`, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--largest", type=int, help="leave out the larger sizes")
    parser.add_argument(
        "sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        section, task, size = arguments.child
        print(json.dumps(SECTIONS[section].tasks[task](int(size))))
        return
    results = {}
    for section in arguments.sections or SECTIONS:
        results[section] = []
        for task in SECTIONS[section].tasks:
            row = measure(section, task, arguments.largest)
            results[section].append(row)
            print(f"\n{table(section, row)}", flush=True)
            if arguments.json:  # after each task: all of them take an hour
                facts = {**provenance("benchmarks.growth"), "sections": results}
                arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
