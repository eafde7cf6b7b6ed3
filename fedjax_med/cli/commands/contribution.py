"""computes how much each hospital has contributed to the global model.

Shapley values are computed from the updates that a run has kept (`train
--config.keep_updates=True`), without retraining, and measured on the validation images of all
clients; Test is not touched. Writes contribution.json and contribution.png into the workdir and
prints a table. docs/contribution.md explains what the values mean, and what they do not mean.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_components, define_data, given_cache_dir
from fedjax_med.contribution import shapley, valuation
from fedjax_med.contribution.load import load_kept
from fedjax_med.errors import UserError, check_name, expand
from fedjax_med.evaluation import tables
from fedjax_med.files import clear_temporary, writing
from fedjax_med.run.load import load_run, read_run
from fedjax_med.run.workdir import check_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_data(flags)
    define_components(flags)
    absl_flags.DEFINE_string("workdir", "", "the workdir of a trained run", flag_values=flags)
    absl_flags.DEFINE_string(
        "metric",
        "loss",
        "what a model is worth: loss (less is more), or balanced_accuracy",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "method",
        "multi_round",
        "multi_round: the sum over rounds; one_round: of the last model",
        flag_values=flags,
    )
    absl_flags.DEFINE_integer(
        "permutations",
        0,
        f"orders that are sampled; 0: exact up to {shapley.EXACT} hospitals, else "
        f"{shapley.PERMUTATIONS}",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "truncation",
        0.0,
        "a sampled order ends where the metric is nearer than this to that of all",
        flag_values=flags,
    )
    absl_flags.DEFINE_integer("seed", 0, "of the sampled orders", lower_bound=0, flag_values=flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Read the run, check that it can be replayed, value the clients; return the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    check_name(flags.metric, valuation.METRICS, "the metrics of a contribution")
    check_name(flags.method, valuation.METHODS, "the methods to compute contributions")
    shapley.check(flags.permutations or shapley.PERMUTATIONS, flags.truncation)
    workdir = expand(flags.workdir)
    saved = read_run(workdir, flags.allow_components)
    experiment = saved.resolved.asked
    valuation.check(experiment)
    check_writable(workdir)
    clear_temporary(workdir)
    loaded = load_run(saved, flags.data_dir, given_cache_dir(flags), from_start=True)
    if flags.truncation and not flags.permutations and experiment.num_clients <= shapley.EXACT:
        raise UserError(
            f"--truncation={flags.truncation} ends orders that are sampled, and up to "
            f"{shapley.EXACT} hospitals all coalitions are formed: give --permutations, too."
        )
    kept = load_kept(loaded)
    measure = valuation.Measure(flags.metric, flags.permutations, flags.truncation, flags.seed)
    images = len(kept.validation.label)
    print(
        f"{workdir}: {kept.rounds} rounds replayed; the coalitions of {experiment.num_clients} "
        f"clients are valued on {images} validation images.",
        file=sys.stderr,  # what is printed before the files are written must not end the command
    )
    found = valuation.METHODS[flags.method](kept, measure)
    result = {
        "round": kept.rounds,
        "rounds": experiment.rounds,
        "method": flags.method,
        "metric": flags.metric,
        "n": images,
        "permutations": flags.permutations,
        "truncation": flags.truncation,
        "seed": flags.seed,
        **valuation.to_json(found, loaded.data.train.sizes.tolist(), loaded.data.names),
    }
    _write(workdir, result)
    print(f"\n{valuation.table(result)}")
    names = ("contribution.json", "contribution.png")
    print(f"\nWritten: {', '.join(str(workdir / name) for name in names)}")
    return 0


def _write(workdir: Path, result: dict[str, Any]) -> None:
    from fedjax_med.evaluation import plots  # here: it loads matplotlib

    with writing(workdir):
        tables.write_json(result, workdir / "contribution.json")
        plots.contribution_png(result, workdir / "contribution.png")
