"""compares the federation with pooled data and with each hospital alone.

All start from the same weights of a seed and train with the same model, optimizer, data and number
of steps: `pooled` is one client with the images of all, whose optimizer goes on from round to round
as in any training; `local` is each client alone. Give the same command again to go on after an
interruption.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as absl_flags

from fedjax_med.cli.commands import evaluate
from fedjax_med.cli.commands.train import Order, train_all
from fedjax_med.cli.flags import define_runs
from fedjax_med.errors import UserError
from fedjax_med.evaluation import comparison, metrics, tables
from fedjax_med.evaluation.comparison import Together
from fedjax_med.experiment import config
from fedjax_med.files import clear_temporary, writing
from fedjax_med.run import metrics_file, resume

SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "log_loss")


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """The flags of this command."""
    define_runs(flags, arguments, "comparison")
    absl_flags.DEFINE_list("seeds", ["0", "1", "2"], "the seeds, with commas", flag_values=flags)
    absl_flags.DEFINE_integer(
        "folds",
        0,
        "compare by cross-validation with so many parts of Train; 0: on Test",
        flag_values=flags,
    )


class Plan(NamedTuple):
    """Which runs there are; a run is a setting, a seed and a fold."""

    workdir: Path
    settings: dict[str, dict[str, Any]]  # federated, pooled, local_0, ...; the fields of each
    seeds: list[int]
    folds: int

    def folders(self, setting: str, seed: int) -> list[Path]:
        """The workdirs that together test every image, under this setting and seed."""
        folder = self.workdir / f"seed_{seed}" / setting
        return [folder / f"fold_{fold}" for fold in range(self.folds)] if self.folds else [folder]


def run(flags: absl_flags.FlagValues) -> int:
    """Train and test everything, then tell of it; returns the exit code."""
    experiment: config.Experiment = flags.config
    which = evaluate.which_checkpoint(flags.checkpoint, experiment)
    plan = _plan(flags, experiment)
    orders = []
    for seed in plan.seeds:
        for setting, fields in plan.settings.items():
            for fold, folder in enumerate(plan.folders(setting, seed)):
                one = dataclasses.replace(experiment, seed=seed, **fields)
                if plan.folds:
                    one = dataclasses.replace(one, folds=plan.folds, fold=fold)
                order = Order(one, flags.data_dir, flags.cache_dir, folder, which)
                orders.append(order._replace(begin_anew=flags.begin_anew))
    clear_temporary(plan.workdir)
    if code := train_all(orders):
        return code
    _tell(plan)
    return 0


def _plan(flags: absl_flags.FlagValues, experiment: config.Experiment) -> Plan:
    if experiment.setting != "federated" or experiment.folds:
        raise UserError(
            "expected no --config.setting and no --config.folds: compare goes through the settings "
            "by itself, and cross-validates with --folds."
        )
    if not all(seed.isdecimal() for seed in flags.seeds) or not flags.seeds:
        raise UserError(f"expected --seeds=0,1,2 or the like, got {','.join(flags.seeds)!r}.")
    if flags.folds < 0 or flags.folds == 1:
        raise UserError(f"expected --folds >= 2, or 0 to test on Test, got {flags.folds}.")
    settings: dict[str, dict[str, Any]] = {"federated": {}, "pooled": {"setting": "pooled"}}
    for hospital in range(experiment.num_clients):
        settings[f"local_{hospital}"] = {"setting": "local", "hospital": hospital}
    workdir = flags.workdir or f"runs/{experiment.name or 'experiment'}-comparison"
    seeds = list(dict.fromkeys(map(int, flags.seeds)))
    return Plan(Path(workdir).expanduser(), settings, seeds, flags.folds)


def _steps(plan: Plan, setting: str) -> float:
    """Gradient steps of a seed's runs in this setting, over all clients, as a mean over seeds."""
    total = 0.0
    for seed in plan.seeds:
        for folder in plan.folders(setting, seed):
            records = metrics_file.all_records(folder, resume.rounds_done(folder))
            total += sum(sum(one["clients"]["steps"]) for one in records)
    return total / len(plan.seeds)


def _tell(plan: Plan) -> None:
    """Print, write and draw what the runs have come to."""
    from fedjax_med.evaluation import plots  # here: it loads matplotlib

    one_by_one: dict[str, list[Together]] = {
        setting: [[comparison.read(plan.folders(setting, seed))[0]] for seed in plan.seeds]
        for setting in plan.settings
    }
    hospitals = [name for name in plan.settings if name.startswith("local_")]
    settings: dict[str, list[Together]] = {
        "local": [
            [run[0] for run in at_seed]
            for at_seed in zip(*(one_by_one[name] for name in hospitals), strict=True)
        ],
        "federated": one_by_one["federated"],
        "pooled": one_by_one["pooled"],
    }
    told = tables.read_evaluation(plan.folders("federated", plan.seeds[0])[0] / "evaluation.json")
    result: dict[str, Any] = {
        "seeds": plan.seeds,
        "names": told.get("client_names", []),  # of the hospitals, where they have some
        "absent_classes": told.get("clients", {}).get("absent_classes", []),
        "folds": plan.folds,
        "test_images": len(settings["pooled"][0][0].label),
        "steps": {
            "local": sum(_steps(plan, name) for name in hospitals),
            **{name: _steps(plan, name) for name in ("federated", "pooled")},
        },
        "scores": {
            name: [comparison.scores(run) for run in runs] for name, runs in settings.items()
        },
        "hospitals": {
            name: [comparison.scores(run) for run in one_by_one[name]] for name in hospitals
        },
        "federated_minus": _differences(settings, one_by_one, hospitals),
    }
    print(f"\n{markdown(result)}")
    with writing(plan.workdir):
        tables.write_json(result, plan.workdir / "comparison.json")
        plots.comparison_png(result["scores"], plan.workdir / "comparison.png")
    names = ("comparison.json", "comparison.png")
    print(f"\nWritten: {', '.join(str(plan.workdir / name) for name in names)}")


def _differences(
    settings: dict[str, list[Together]],
    one_by_one: dict[str, list[Together]],
    hospitals: list[str],
) -> dict[str, dict[str, Any]]:
    """Of each metric, federated minus the others; of balanced accuracy, minus each hospital too."""
    federated = settings["federated"]
    found: dict[str, dict[str, Any]] = {}
    for name in SHOWN:
        metric = metrics.HEADLINES[name]
        others = {key: settings[key] for key in ("pooled", "local")}
        if name == "balanced_accuracy":
            others |= {hospital: one_by_one[hospital] for hospital in hospitals}
        found[name] = {
            key: comparison.difference(federated, runs, metric)._asdict()
            for key, runs in others.items()
        }
    return found


def markdown(result: dict[str, Any]) -> str:
    """The tables of a comparison."""
    on = f"{result['test_images']} images"
    on += f" of Train, each tested once in {result['folds']} folds" if result["folds"] else ""
    seeds, steps = result["seeds"], result["steps"]
    lines = [
        f"Mean ± sd over {len(seeds)} seed{'s' * (len(seeds) > 1)}, tested on {on}; differences "
        "with 95 % intervals over paired resamples of the images.",
        "",
        "| | local (mean of hospitals) | federated | pooled | federated - pooled | "
        "federated - local |",
        "|---|---|---|---|---|---|",
    ]
    for name in SHOWN:
        cells = [
            comparison.spread([one[name] for one in result["scores"][setting]])
            for setting in ("local", "federated", "pooled")
        ]
        cells += [
            comparison.in_words(comparison.Difference(**result["federated_minus"][name][other]))
            for other in ("pooled", "local")
        ]
        lines.append(f"| {tables.HEADLINES[name]} | {' | '.join(cells)} |")
    counts = " | ".join(f"{steps[setting]:,.0f}" for setting in ("local", "federated", "pooled"))
    lines += [f"| gradient steps of a seed, in all | {counts} | | |", ""]
    lines += [
        "| hospital | balanced accuracy alone | federated - alone |",
        "|---|---|---|",
    ]
    for number, (name, scores) in enumerate(result["hospitals"].items()):
        hospital = str(number) + (f" ({result['names'][number]})" if result["names"] else "")
        alone = comparison.spread([one["balanced_accuracy"] for one in scores])
        found = result["federated_minus"]["balanced_accuracy"][name]
        gain = comparison.in_words(comparison.Difference(**found))
        lines.append(f"| {hospital} | {alone} | {gain} |")
    for number, absent in enumerate(result["absent_classes"]):
        if absent:
            lines += ["", f"Hospital {number} has no validation image of: {', '.join(absent)}."]
    return "\n".join(lines)
