"""How to make the run again."""

from fedjax_med.report.flags import flags
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, escaped, joined, paragraph, table, tag

READS = "experiment.json"
_LONGEST = 10**6  # characters of a flag, which says little if it is cut
_KNOWN = {
    "code": "code",
    "data": "training images and their division (SHA-256)",
    "test": "test images (SHA-256)",
    "groups": "table of groups (SHA-256)",
}
_TEXT = (
    "The same command, code and data on the same kind of machine give the same bits, but for "
    "noise that is drawn from a secret. Add --data_dir and --workdir."
)


def build(run: Run) -> Section | None:
    """Show the command and what it depends on; None where no experiment is known."""
    if run.experiment is None:
        return None
    given = flags(run.experiment)
    if run.comparison:
        seeds = ",".join(str(int(seed)) for seed in run.comparison["seeds"])
        first = ["fedjax-med compare", f"--seeds={seeds}"]
        folds = int(run.comparison["folds"])
        first += [f"--folds={folds}"] if folds else []
        mine = ("--config.seed=", "--config.folds=", "--config.fold=")
        given = [flag for flag in given if not flag.startswith(mine)]
    else:
        first = ["fedjax-med train", *(["--evaluate"] if run.evaluation else [])]
    lines = [" ".join(first), *given]
    known = [(name, str(run.saved[key])) for key, name in _KNOWN.items() if key in run.saved]
    parts = [
        tag("pre", Markup(" \\\n  ".join(escaped(one, _LONGEST) for one in lines))),
        *_checkpoint(run),
        table("What it was made from", ("what", "which"), known),
        paragraph(_TEXT),
    ]
    return Section("How to make it again", joined(*parts))


def _checkpoint(run: Run) -> list[Markup]:
    """Say which checkpoint was evaluated, where it is not the experiment's choice."""
    which = run.evaluation.get("checkpoint")
    if which is None or (run.experiment and which == run.experiment.checkpoint.tested):
        return []
    return [paragraph("Then ", tag("code", f"fedjax-med evaluate --checkpoint={which}"), ".")]
