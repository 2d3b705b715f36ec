"""The pages of the experiments: prose that is kept, tables that are generated."""

import re
import textwrap

from docs.pages.markdown import RESULTS, load, table

# The parts of the papers that each experiment is about.
PAPERS = {
    "mnist": "Ioffe & Szegedy 2015, section 4.1, figure 1",
    "mnist-sweep": "Ioffe & Szegedy 2015, sections 1 and 3.3",
    "inception": "Ioffe & Szegedy 2015, section 4.2, figures 2 and 3",
    "ensemble": "Ioffe & Szegedy 2015, section 4.2.3, figure 4",
    "vgg": "Santurkar et al. 2018, section 2, figure 1a and b",
    "vgg-sweep": "Santurkar et al. 2018, sections 3 and 3.1",
    "landscape": "Santurkar et al. 2018, sections 2.2 and 3.1, figures 3a and 4",
    "deep-linear": "Santurkar et al. 2018, sections 2.2, 3.1 and 3.3, figures 3b, 5b, "
    "10 and 13",
    "noise": "Santurkar et al. 2018, sections 2.1 and 3.3, figures 2, 5a and 8",
    "theorem": "Santurkar et al. 2018, theorem 4.1",
    "section2": "Ioffe & Szegedy 2015, section 2",
    "domain": "Ioffe & Szegedy 2015, section 5",
    "depth": "A question of our own, about figures 2 and 3 of Ioffe & Szegedy 2015",
    "population-statistics": "Ioffe & Szegedy 2015, Algorithm 2; Wu & Johnson 2021",
    "batch-size": "A question of our own: what small mini-batches do",
    "regularization": "Ioffe & Szegedy 2015, sections 3.4 and 4.2.1",
}
OLDER = (
    "These figures were measured by an older version of the code, in the set-up that "
    "the last paragraphs name. The command uses the current set-up."
)


def is_older(name, facts):
    """Return whether a result was measured with other sizes than the plan of today."""
    from bn_keras.experiments.catalog import load_experiment
    from bn_keras.experiments.experiment import plan_as_json

    today = load_experiment(name).plans[facts["scale"]]
    return facts["measurements"].get("plan") != plan_as_json(today)


def load_result(name):
    """Return a published result, or None if the experiment has not been run."""
    path = RESULTS / "reproduce" / f"{name}.json"
    return load(f"reproduce/{name}") if path.is_file() else None


def _page_without_result(name):
    """Return the page of an experiment that has not been run at this scale."""
    from bn_keras.experiments.catalog import load_experiment

    title = load_experiment(name).title
    text = f"{PAPERS[name]}. Not measured yet: `bn-keras reproduce {name}` measures it."
    parts = [f"# {title}\n", _fill(text), f"## Set-up\n\n{_prose(name, 'Set-up')}"]
    return "\n".join(parts)


def results_page(name):
    """Return the page of an experiment, with the prose that it has."""
    from bn_keras.experiments.facts import FACTS
    from bn_keras.experiments.rows import COLUMNS, cells

    facts = load_result(name)
    if facts is None:
        return _page_without_result(name)
    picture = f"../../benchmarks/results/reproduce/{name}"
    older = is_older(name, facts)
    intro = (
        f"{PAPERS[name]}. The results below were measured by `{facts['command']}` "
        f"([measurements]({picture}.json))."
    )
    sentences = [
        [fact.sentence, fact.where]
        for key, fact in FACTS.items()
        if fact.experiment == name
    ]
    claims = f"## Claims\n\n{table(['the paper says', 'where'], sentences)}\n\n"
    parts = [
        f"# {facts['title']}\n",
        _fill(intro),
        *([_fill(f"**{OLDER}**")] if older else []),
        f"![{facts['title']}. The table below lists the results as numbers.]"
        f"({picture}.svg)\n",
        (claims if sentences else "") + f"## Set-up\n\n{_prose(name, 'Set-up')}",
        f"## Results\n\n{table(COLUMNS, map(cells, facts['rows']))}\n",
        f"## What came out\n\n{_prose(name, 'What came out')}",
    ]
    return "\n".join(parts)


def page_of(name):
    """Return the function that writes the page of an experiment."""
    return lambda: results_page(name)


def describe_published():
    """Write rows and figures of the published results again from what they hold."""
    from bn_keras.experiments.catalog import EXPERIMENTS
    from bn_keras.experiments.reproducing import describe_again

    for name in EXPERIMENTS:
        if load_result(name) is not None:
            describe_again(name, RESULTS / "reproduce")


def _prose(name, heading):
    """Return a section of the page as it is there, with lines of one length."""
    from bn_keras.experiments import pages

    paragraphs = pages.read_raw(name, heading).strip().split("\n\n")
    return "\n".join(map(_fill, paragraphs))


def _fill(text):
    # Links and code stay on one line where they fit.
    return textwrap.fill(re.sub(r"\s+", " ", text), 88, break_on_hyphens=False) + "\n"
