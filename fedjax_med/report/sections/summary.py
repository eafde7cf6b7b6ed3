"""What was trained on what, and the headline figures."""

from fedjax_med.evaluation.cells import interval, number
from fedjax_med.evaluation.tables import HEADLINES
from fedjax_med.experiment.config import Experiment
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, table, tag

READS = "evaluation.json"
_NOTICE = (
    "For research only. This is not a medical device: neither the model nor this report may be "
    "used to diagnose or to treat anybody. The figures are of the images named here, and say "
    "nothing of other cameras or patients."
)


def build(run: Run) -> Section:
    """Build the section, with the figures if the run was evaluated."""
    parts = [paragraph(tag("strong", _NOTICE))]
    body = [tag("div", *parts, class_="notice"), *_trained(run), *_headlines(run)]
    return Section("Summary", joined(*body))


def _trained(run: Run) -> list[Markup]:
    if run.experiment is None:
        return []
    facts = _facts(run.experiment, bool(run.evaluation.get("client_names")))
    rows = [(name, value) for name, value in facts.items() if value]
    done = len(run.records)
    if not run.comparison:
        rows.append(("rounds trained", f"{done} of {run.experiment.rounds}"))
    return [table("What was trained", ("setting", "value"), rows)]


def _divided(of: Experiment, named: bool) -> str:
    """Say what divided the images: data that name their hospitals are not partitioned.

    The partition `by_column` names the clients, too.
    """
    if of.dataset.options.get("site"):
        return "by the sites of the table"
    if named and of.partition.name != "by_column":
        return "by the folders of the hospitals"
    return of.partition.name


def _facts(of: Experiment, named: bool) -> dict[str, str]:
    """Name the main settings, of clients that are `named` or not; an empty one is not shown."""
    who = {
        "federated": f"{of.num_clients or 'all'} clients (hospitals), each with its own images",
        "centralized": "one client with the images of all hospitals",
        "local": f"hospital {of.local_client} alone",
    }
    return {
        "experiment": of.name,
        "data set": of.dataset.name,
        "trained by": who.get(of.setting, of.setting),
        "images divided": _divided(of, named) if of.setting == "federated" else "",
        "model": of.model.name,
        "initial weights": of.pretrained,
        "image size": f"{of.image_size} pixels",
        "algorithm": of.algorithm.name if of.setting == "federated" else "",
        "aggregator": of.aggregator.name if of.setting == "federated" else "",
        "transforms": ", ".join(one.name for one in of.transforms),
        "attacks, to test the aggregator": ", ".join(one.name for one in of.attacks),
        "seed": str(of.seed),
        "labels corrected by": of.corrections,
    }


def _headlines(run: Run) -> list[Markup]:
    found = run.evaluation
    if not found:
        text = "This run was not evaluated on test images: there are no figures of them."
        return [] if run.comparison else [paragraph(text)]
    rows = [
        (name, number(found[key]), interval(found["intervals"][key]))
        for key, name in HEADLINES.items()
    ]
    chosen = "the best by validation" if found["checkpoint"] == "best" else "the last one"
    caption = f"On {found['n']} test images: the model of round {found['round']}, {chosen}"
    text = "Intervals are over the sampling of test images; another seed moves the figures, too."
    return [table(caption, ("figure", "value", "95 % interval"), rows), paragraph(text)]
