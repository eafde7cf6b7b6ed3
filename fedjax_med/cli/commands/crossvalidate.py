"""trains and tests on each part of Train in turn: cross-validation.

Every image of Train is tested once, by a model that has not seen it; Test is not touched. The parts
have the same share of each class, and copies of an image are in one part. Give the same command
again to resume after an interruption.
"""

import dataclasses

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_runs
from fedjax_med.errors import UserError, expand
from fedjax_med.experiment import config
from fedjax_med.files import clear_temporary
from fedjax_med.run.crossvalidate import report
from fedjax_med.run.evaluate import which_checkpoint
from fedjax_med.run.train import TrainJob, train_all


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_runs(flags, arguments, "crossvalidation")
    absl_flags.DEFINE_integer("folds", 5, "how many parts", flag_values=flags)
    absl_flags.DEFINE_list(
        "only", [], "only these folds, from 0, with commas (to try something)", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Train and test every fold, then report all of them; return the exit code."""
    experiment: config.Experiment = flags.config
    which = which_checkpoint(flags.checkpoint, experiment)
    if flags.folds < 2:
        raise UserError(f"expected --folds >= 2, got {flags.folds}.")
    if experiment.folds:
        raise UserError("expected no --config.folds: crossvalidate runs through them by itself.")
    every = [str(fold) for fold in range(flags.folds)]
    wanted = list(dict.fromkeys(flags.only)) or every
    if not set(wanted) <= set(every):
        raise UserError(f"expected --only to name folds from 0 to {flags.folds - 1}, got {wanted}.")
    name = f"{experiment.name or 'experiment'}-crossvalidation"
    workdir = expand(flags.workdir or f"runs/{name}")
    orders = [
        TrainJob(
            dataclasses.replace(experiment, folds=flags.folds, fold=fold),
            flags.data_dir,
            flags.cache_dir,
            workdir / f"fold_{fold}",
            which,
            begin_anew=flags.begin_anew,
        )
        for fold in map(int, wanted)
    ]
    clear_temporary(workdir)
    if code := train_all(orders):
        return code
    report(workdir, [order.workdir for order in orders])
    return 0
