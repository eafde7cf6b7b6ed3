"""evaluates the global model on the held-out test set, from a checkpoint.

Writes evaluation.json, predictions.csv and confusion_matrix.png into the workdir and prints a
table; for several workdirs (such as one experiment with several seeds) also the mean and standard
deviation.
"""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_checkpoint, define_data, given_cache_dir
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation import tables
from fedjax_med.run.evaluate import CHECKPOINTS, evaluate_run
from fedjax_med.run.load import load_run, read_run


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_data(flags)
    absl_flags.DEFINE_list(
        "workdir", [], "the workdir of a trained run, or several with commas", flag_values=flags
    )
    define_checkpoint(flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Evaluate the checkpoint of each workdir; return the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    if flags.checkpoint:  # the experiment's own choice is checked when it is read
        check_name(flags.checkpoint, CHECKPOINTS, "the checkpoints to evaluate")
    evaluations = [
        _load_and_evaluate(Path(workdir).expanduser(), flags) for workdir in flags.workdir
    ]
    if len(evaluations) > 1:
        print(f"\nAll {len(evaluations)} runs:\n\n{tables.markdown(evaluations)}")
    return 0


def _load_and_evaluate(workdir: Path, flags: absl_flags.FlagValues) -> dict[str, Any]:
    saved = read_run(workdir)
    run = load_run(saved, flags.data_dir, given_cache_dir(flags))
    if saved.saved.get("test", run.data.test_digest) != run.data.test_digest:
        print(f"The test images are not those that were there when {workdir} was trained.")
    return evaluate_run(workdir, run.plan, run.data, flags.checkpoint)
