"""The page that summarizes all experiments."""

from docs.pages.markdown import HEADER, load, table


def papers_page():
    """Return the page that summarizes all experiments."""
    from bn_keras.experiments.catalog import EXPERIMENTS
    from bn_keras.experiments.rows import cells

    overview, others = [], []
    for name in EXPERIMENTS:
        facts = load(f"reproduce/{name}")
        rows = [cells(row) for row in facts["rows"]]
        verdicts = [verdict for *_, verdict in rows]
        decided = len(verdicts) - verdicts.count("-")
        link = f"[{facts['title']}](results/{name}.md)"
        overview.append(
            [
                link,
                f"{verdicts.count('yes')} of {decided}" if decided else "no claim",
                f"{facts['seconds'] / 60:.0f}",
                f"`bn-keras reproduce {name}`",
            ]
        )
        others += [[link, *row[:-1]] for row in rows if row[-1] == "no"]
    columns = ["experiment", "claims confirmed", "minutes", "command"]
    return f"""\
{HEADER}
# The papers, measured again

Experiments of Ioffe & Szegedy 2015
([Batch Normalization](https://arxiv.org/abs/1502.03167)) and Santurkar et al. 2018
([How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604)), at sizes
that two CPU cores can train.

![Figure 1(a) of the paper, measured again](pictures/figure_1.svg)

{table(columns, overview)}

Each page has the set-up, the figure, every claim with what was measured, and what it means.
Measured values are means over the seeds, with the smallest and the largest in parentheses. A claim is confirmed if
every seed shows what the paper says; for the ensemble, if the 95% interval over the test pictures
does. "As BN" means at least three quarters of the way from the network without batch
normalization to the one with it.

`bn-keras reproduce all --jobs 2` repeats everything; see
[Repeat the experiments](how-to/reproduce.md).

## Claims that were not confirmed

{table(["experiment", "claim", "paper", "measured"], others)}

The pages of the experiments discuss the reasons. The papers' networks were much larger and were
trained for much longer.
"""
