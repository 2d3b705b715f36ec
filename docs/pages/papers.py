"""The page that summarizes all experiments."""

from docs.pages.markdown import HEADER, table
from docs.pages.results import is_older, load_result


def papers_page():
    """Return the page that summarizes all experiments."""
    from bn_keras.experiments.catalog import EXPERIMENTS, load_experiment
    from bn_keras.experiments.facts import FACTS
    from bn_keras.experiments.rows import count_verdicts

    overview, judged = [], {}
    older = []
    for name in EXPERIMENTS:
        facts = load_result(name)
        if facts is None:
            link = f"[{load_experiment(name).title}](results/{name}.md)"
            command = f"`bn-keras reproduce {name}`"
            overview.append([link, *["-"] * 3, "not measured yet", command])
            continue
        mark = ""
        if is_older(name, facts):
            mark = " (older version)"
            older.append(name)
        judged |= {row["fact"]: row for row in facts["rows"] if row["fact"]}
        counts = count_verdicts(facts["rows"])
        overview.append(
            [
                f"[{facts['title']}](results/{name}.md){mark}",
                *(counts if any(counts) else ["-"] * 3),
                f"{facts['seconds'] / 60:.0f}",
                f"`bn-keras reproduce {name}`",
            ]
        )
    claims = [_claim(key, fact, judged, older) for key, fact in FACTS.items()]
    columns = ["experiment", "yes", "no", "undecided", "minutes", "command"]
    total = [sum(1 for row in judged.values() if row["direction"] == x) for x in _ALL]
    return f"""\
{HEADER}
# The papers, measured again

Experiments of Ioffe & Szegedy 2015
([Batch Normalization](https://arxiv.org/abs/1502.03167), BN) and Santurkar et al. 2018
([How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604), LS), at
sizes that two CPU cores can train. {_count_claims(total, judged, older)}

![Figure 1(a) of the paper, measured again](pictures/figure_1.svg)

## The claims

A claim is confirmed (yes) or contradicted (no) only if the whole 95% interval lies on one side:
Student's t over the seeds, on the logarithms of ratios; differences of accuracies also over
the test pictures, by the bootstrap. Otherwise it is undecided. Claims without an interval, such as
those of section 2 and theorem 4.1, state their criterion in the table of their page. "Size" asks
whether the whole interval is within a factor of 1.25 of the paper's number. Margins of "similar"
were fixed before the runs and are given in the tables. Parentheses after a difference, a ratio or
a mean cosine are 95% intervals; after the value of one network they are the lowest and the highest
seed. The paper's set-up for each claim is listed in `bn_keras/experiments/facts.py`; a test checks
that every difference from it is documented.

{table(["claim", "where", "measured", "n", "direction", "size"], claims)}

## The experiments

{table(columns, overview)}

Each page has the claims, the set-up with its differences, the figure, what was measured, and what
it means. Results marked "older version" were measured with other sizes than the current ones, which
the commands use. `bn-keras reproduce all --jobs 2` repeats everything; see
[Repeat the experiments](how-to/reproduce.md).
"""


_ALL = ("yes", "no", "undecided")


def _count_claims(total, judged, older):
    """Return the sentences that count the verdicts."""
    from bn_keras.experiments.facts import FACTS

    text = (
        f"Of {len(FACTS)} claims, {total[0]} are confirmed, {total[1]}\n"
        f"contradicted, and {total[2]} undecided"
    )
    if missing := len(FACTS) - len(judged):
        text += f"; {missing} are not measured yet"
    if old := sum(FACTS[key].experiment in older for key in judged):
        text += f". {old} of the verdicts are of an older version"
    return f"{text}."


def _claim(key, fact, judged, older):
    """Return a line of the table of claims."""
    row = judged.get(key)
    link = f"[{fact.where}](results/{fact.experiment}.md)"
    if row is None:
        return [fact.sentence, link, "not measured yet", "-", "-", "-"]
    n = row["n"] + (", older version" if fact.experiment in older else "")
    # Details after the first semicolon are on the experiment's own page.
    measured = row["measured"].split(";")[0]
    return [
        fact.sentence,
        link,
        measured,
        n,
        row["direction"] or "-",
        row["size"] or "-",
    ]
