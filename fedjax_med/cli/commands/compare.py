"""compares the federation with centralized training and with each hospital alone.

For each seed, all start from the same weights and train with the same model, optimizer, data and
number of steps: `centralized` is one client with the images of all, whose optimizer keeps its state
from round to round as in any training; `local` is each client alone. Give the same command again to
resume after an interruption.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_runs
from fedjax_med.cli.reporting import reported
from fedjax_med.errors import UserError, expand
from fedjax_med.experiment import config, load_data
from fedjax_med.files import clear_temporary
from fedjax_med.run.compare import Comparison, report
from fedjax_med.run.evaluate import which_checkpoint
from fedjax_med.run.train import TrainJob, train_all


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_runs(flags, arguments, "comparison")
    absl_flags.DEFINE_list("seeds", ["0", "1", "2"], "the seeds, with commas", flag_values=flags)
    absl_flags.DEFINE_integer(
        "folds",
        0,
        "compare by cross-validation with so many parts of Train; 0: on Test",
        flag_values=flags,
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Train and test all runs, then report the comparison; return the exit code."""
    experiment: config.Experiment = flags.config
    which = which_checkpoint(flags.checkpoint, experiment)
    plan = _plan(flags, experiment)
    orders = []
    for seed in plan.seeds:
        for setting, fields in plan.settings.items():
            for fold, folder in enumerate(plan.folders(setting, seed)):
                one = dataclasses.replace(experiment, seed=seed, **fields)
                if plan.folds:
                    one = dataclasses.replace(one, folds=plan.folds, fold=fold)
                order = TrainJob(one, flags.data_dir, flags.cache_dir, folder, which)
                orders.append(order._replace(begin_anew=flags.begin_anew))
    clear_temporary(plan.workdir)
    if code := train_all(orders):
        return code
    with reported(plan.workdir):
        report(plan)
    return 0


def _plan(flags: absl_flags.FlagValues, experiment: config.Experiment) -> Comparison:
    if experiment.setting != "federated" or experiment.folds:
        raise UserError(
            "expected no --config.setting and no --config.folds: compare goes through the settings "
            "by itself, and cross-validates with --folds."
        )
    if not all(seed.isdecimal() for seed in flags.seeds) or not flags.seeds:
        raise UserError(f"expected --seeds=0,1,2 or the like, got {','.join(flags.seeds)!r}.")
    if flags.folds < 0 or flags.folds == 1:
        raise UserError(f"expected --folds >= 2, or 0 to test on Test, got {flags.folds}.")
    settings: dict[str, dict[str, Any]] = {
        "federated": {},
        "centralized": {"setting": "centralized"},
    }
    for hospital in range(load_data.count_clients(experiment, flags.data_dir).num_clients):
        settings[f"local_{hospital}"] = {"setting": "local", "local_client": hospital}
    workdir = flags.workdir or f"runs/{experiment.name or 'experiment'}-comparison"
    seeds = list(dict.fromkeys(map(int, flags.seeds)))
    return Comparison(expand(workdir), settings, seeds, flags.folds)
