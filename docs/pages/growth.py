"""The section on how time and memory grow with the size of a problem."""

from docs.pages.markdown import load, number, source, table

STEEP = 1.2
# By task, why a figure grows faster than the size.
REASONS = {
    "request": (
        "`malloc` keeps the buffers of small messages for the next ones. Those of tens of MB "
        "are new pages for every request, up to eight times its size, which the system clears "
        "one by one."
    ),
}


def growth_section():
    """Return the section on growth.

    Raises:
        KeyError: If a figure grows faster than the size and no reason is known.
    """
    facts = load("growth")
    rows, reasons = [], []
    for section, tasks in facts["sections"].items():
        for task in tasks:
            sizes = f"{task[section][0]:,} to {task[section][-1]:,} {section}"
            times = [x for x in task if "seconds" in x and not x.startswith("slope")]
            memory = [task["MB"], task["slope of MB"]]
            for figure in times:
                cells = [*_range(task[figure]), task[f"slope of {figure}"]]
                cells += [*_range(memory[0]), memory[1]] if memory else ["", ""]
                name = task["task"]
                if len(times) > 1:
                    name += f", {figure.removeprefix('seconds ')}"
                rows.append([name, sizes, *cells])
                if max([task[f"slope of {figure}"], *memory[1:]]) > STEEP:
                    reasons.append(f"- **{name}, {section}**: {REASONS[task['task']]}")
                memory = []
    columns = ["task", "sizes", "seconds", "slope", "MB", "slope"]
    if not reasons:
        reasons = ["- Nothing."]
    explained = "\n".join(reasons)
    return f"""\
## Growth

Seconds of the processor, and the memory above that of the process before the task. For the
server they are the clock's seconds of one request. Every figure is from a process of its own.
The slope is that of a line through the larger half of the sizes on logarithmic axes: 1 is growth
in proportion to the size, 0 none.

{table(columns, rows)}

What grows with a slope above {STEEP}, and why:

{explained}

{source(facts, "growth")}
"""


def _range(values):
    first, last = (number(max(x, 0)) for x in (values[0], values[-1]))
    return [f"{first} to {last}"]
