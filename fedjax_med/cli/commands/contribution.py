"""tells how much each hospital has contributed to the global model.

Shapley values are computed from the updates that a run has kept (`train
--config.keep_updates=True`), without retraining, and measured on the validation images of all
clients; Test is not touched. Writes contribution.json and contribution.png into the workdir and
prints a table. docs/contribution.md says what the figures mean, and what they do not mean.
"""

import functools
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from fedjax_med.cli.commands import evaluate
from fedjax_med.cli.flags import define_data
from fedjax_med.contribution import replay, shapley, valuation
from fedjax_med.core import round as federated
from fedjax_med.data import client_data
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation import tables
from fedjax_med.evaluation.predict import pool
from fedjax_med.experiment import build, config, load_data, resolve
from fedjax_med.files import writing
from fedjax_med.run import message_log
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.provenance import identity
from fedjax_med.run.resume import no_checkpoint
from fedjax_med.run.workdir import read_workdir

_NEAR = 1e-3  # of the way that the model went: what rounding may come to


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """The flags of this command."""
    define_data(flags)
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
    """Read the run, check that it can be replayed, then tell; returns the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    check_name(flags.metric, valuation.METRICS, "the metrics of a contribution")
    check_name(flags.method, valuation.METHODS, "the methods to tell contributions")
    shapley.check(flags.permutations or shapley.PERMUTATIONS, flags.truncation)
    workdir = Path(flags.workdir).expanduser()
    experiment, data = _load(workdir, flags)
    if flags.truncation and not flags.permutations and experiment.num_clients <= shapley.EXACT:
        raise UserError(
            f"--truncation={flags.truncation} ends orders that are sampled, and up to "
            f"{shapley.EXACT} hospitals all coalitions are formed: give --permutations, too."
        )
    kept = _kept(workdir, experiment, data)
    measure = valuation.Measure(flags.metric, flags.permutations, flags.truncation, flags.seed)
    images = len(kept.validation.label)
    print(
        f"{workdir}: {kept.rounds} rounds replayed; the coalitions of {experiment.num_clients} "
        f"clients are valued on {images} validation images.",
        flush=True,
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
        **valuation.tell(found, data.train.sizes.tolist(), data.names),
    }
    print(f"\n{valuation.table(result)}")
    _write(workdir, result)
    return 0


def _load(
    workdir: Path, flags: absl_flags.FlagValues
) -> tuple[config.Experiment, load_data.Federation]:
    """The experiment of `workdir`, if it can be told from, and its data."""
    experiment = resolve.complete(config.from_dict(read_workdir(workdir)["experiment"]))
    valuation.check(experiment)
    return experiment, evaluate.load(workdir, flags)[1]


def _kept(workdir: Path, experiment: config.Experiment, data: load_data.Federation) -> replay.Run:
    """What the run has kept, up to its last checkpoint, if its replay comes to that."""
    counts = client_data.class_counts(data.train, len(data.class_names)).sum(axis=0)
    # As for a new run: the first weights are needed, and not those of a checkpoint.
    assembly = build.assemble(experiment, len(data.class_names), counts)
    method = assembly.method
    valuation.check_method(method, experiment.algorithm.name)
    validation = pool(data.validation)
    if not len(validation.label):
        raise UserError(
            "the run has no validation images to value a model on: train with "
            "--config.validation_fraction above 0."
        )
    start = assembly.init(data.train.shapes())
    checkpoints = Checkpoints(workdir, experiment.checkpoint, read_only=True)
    try:
        tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
        restored = checkpoints.restore(lambda: start, tag, checkpoints.latest_first)
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(no_checkpoint(workdir, max(checkpoints.rounds(), default=0)))
    message = federated.message_of(
        method.algorithm, *method.algorithm.init(start.server.params), data.train.shapes()
    )
    load = functools.partial(message_log.load, workdir, message=message)
    kept = replay.Run(method, assembly.model, start, int(restored.state.round), load, validation)
    apart = replay.distance(replay.replay(kept), restored.state, start)
    if not apart <= _NEAR:
        raise UserError(
            f"the updates in {workdir} do not come to the model of its checkpoint (they miss it by "
            f"{apart:.1%} of the way from the first model): they are of another run, or the code "
            "has changed. Train again, into another --workdir."
        )
    return kept


def _write(workdir: Path, result: dict[str, Any]) -> None:
    from fedjax_med.evaluation import plots  # here: it loads matplotlib

    with writing(workdir):
        tables.write_json(result, workdir / "contribution.json")
        plots.contribution_png(result, workdir / "contribution.png")
    names = ("contribution.json", "contribution.png")
    print(f"\nWritten: {', '.join(str(workdir / name) for name in names)}")
