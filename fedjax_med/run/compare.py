"""Compares the runs of several settings and seeds: scores, paired differences, tables."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import comparison, operating_runs, operating_table, tables
from fedjax_med.evaluation.comparison import Together
from fedjax_med.files import writing
from fedjax_med.run import metrics_file, resume

SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "log_loss")


SETTINGS = {  # that are compared
    "local": "local (mean of hospitals)",
    "federated": "federated",
    "centralized": "centralized",
}
_BEFORE = {"centralized": "pooled"}  # folders of settings in earlier versions


class Comparison(NamedTuple):
    """The runs of a comparison, one for each setting, seed and fold."""

    workdir: Path
    settings: dict[str, dict[str, Any]]  # federated, centralized, local_0, ...: config fields
    seeds: list[int]
    folds: int

    def folders(self, setting: str, seed: int) -> list[Path]:
        """List the workdirs that together test every image, for this setting and seed."""
        folder = self.workdir / f"seed_{seed}" / setting
        before = folder.with_name(_BEFORE.get(setting, setting))
        folder = before if before.exists() and not folder.exists() else folder
        return [folder / f"fold_{fold}" for fold in range(self.folds)] if self.folds else [folder]


def _steps(plan: Comparison, setting: str) -> float:
    """Count the gradient steps of all clients in this setting, averaged over the seeds."""
    total = 0.0
    for seed in plan.seeds:
        for folder in plan.folders(setting, seed):
            records = metrics_file.all_records(folder, resume.rounds_done(folder))
            total += sum(sum(one["clients"]["steps"]) for one in records)
    return total / len(plan.seeds)


def report(plan: Comparison) -> None:
    """Print, write and plot the results of the runs."""
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
        "centralized": one_by_one["centralized"],
    }
    evaluation = tables.read_evaluation(
        plan.folders("federated", plan.seeds[0])[0] / "evaluation.json"
    )
    group = comparison.read_grouped(plan.folders("federated", plan.seeds[0])).group
    result: dict[str, Any] = {
        "seeds": plan.seeds,
        "names": evaluation.get("client_names", []),  # of the hospitals, if they have names
        "absent_classes": evaluation.get("clients", {}).get("absent_classes", []),
        "folds": plan.folds,
        "test_images": len(settings["centralized"][0][0].label),
        "steps": {
            "local": sum(_steps(plan, name) for name in hospitals),
            **{name: _steps(plan, name) for name in ("federated", "centralized")},
        },
        "scores": {
            name: [comparison.scores(run) for run in runs] for name, runs in settings.items()
        },
        "hospitals": {
            name: [comparison.scores(run) for run in one_by_one[name]] for name in hospitals
        },
        "federated_minus": _differences(settings, one_by_one, hospitals, group),
        **({"groups": evaluation["groups"]} if "groups" in evaluation and not plan.folds else {}),
        **_operating(plan, hospitals),
    }
    with writing(plan.workdir):
        tables.write_json(result, plan.workdir / "comparison.json")
        plots.comparison_png(result["scores"], plan.workdir / "comparison.png")
    print(f"\n{markdown(result)}")
    names = ("comparison.json", "comparison.png")
    print(f"\nWritten: {', '.join(str(plan.workdir / name) for name in names)}")


def _operating(plan: Comparison, hospitals: list[str]) -> dict[str, Any]:
    """Report the settings' operating points, if there are any; hospitals alone as their mean."""
    members = {"local": hospitals, "federated": ["federated"], "centralized": ["centralized"]}
    found = operating_runs.compared(
        {
            setting: [[plan.folders(name, seed) for name in names] for seed in plan.seeds]
            for setting, names in members.items()
        }
    )
    return {"operating": found} if found else {}


def _differences(
    settings: dict[str, list[Together]],
    one_by_one: dict[str, list[Together]],
    hospitals: list[str],
    group: npt.NDArray[np.str_] | None,
) -> dict[str, dict[str, Any]]:
    """Compute federated minus other settings; for balanced accuracy, minus each hospital too."""
    federated = settings["federated"]
    found: dict[str, dict[str, Any]] = {}
    for name in SHOWN:
        others = {key: settings[key] for key in ("centralized", "local")}
        if name == "balanced_accuracy":
            others |= {hospital: one_by_one[hospital] for hospital in hospitals}
        found[name] = {
            key: comparison.difference(federated, runs, name, group)._asdict()
            for key, runs in others.items()
        }
    return found


def markdown(result: dict[str, Any]) -> str:
    """Format the tables of a comparison as Markdown."""
    on = f"{result['test_images']} images"
    on += f" of Train, each tested once in {result['folds']} folds" if result["folds"] else ""
    seeds = result["seeds"]
    lines = [
        f"Mean ± sd over {len(seeds)} seed{'s' * (len(seeds) > 1)}, tested on {on}; differences "
        "with paired 95 % intervals over the sampling of images.",
        "",
        _settings_table(result),
        "",
        _hospitals_table(result),
        *_operating_table(result.get("operating", {})),
    ]
    for number, absent in enumerate(result["absent_classes"]):
        if absent:
            classes = ", ".join(map(tables.short, absent))
            lines += ["", f"Hospital {number} has no validation image of: {classes}."]
    return "\n".join(lines)


def _settings_table(result: dict[str, Any]) -> str:
    """Format a row for each score, and one for the gradient steps."""
    rows = []
    for name in SHOWN:
        cells = [
            comparison.spread([one[name] for one in result["scores"][setting]])
            for setting in ("local", "federated", "centralized")
        ]
        cells += [
            comparison.in_words(comparison.Difference(**result["federated_minus"][name][other]))
            for other in ("centralized", "local")
        ]
        rows.append([tables.HEADLINES[name], *cells])
    steps = [
        f"{result['steps'][setting]:,.0f}" for setting in ("local", "federated", "centralized")
    ]
    rows.append(["gradient steps of a seed, in all", *steps, "", ""])
    names = tuple(SETTINGS.values())
    minus = ("federated - centralized", "federated - local")
    return tables.markdown_table(["", *names, *minus], rows)


def _operating_table(operating: dict[str, Any]) -> list[str]:
    """Format a row for each figure of the operating points; [] if none were asked for."""
    rows = [
        [name, *(comparison.spread(of[setting]) for setting in SETTINGS)]
        for name, of in operating_table.of_settings(operating)
    ]
    return ["", tables.markdown_table(["", *SETTINGS.values()], rows)] if rows else []


def _hospitals_table(result: dict[str, Any]) -> str:
    """Format a row for each hospital: how it fares alone, and what the federation adds."""
    rows = []
    for number, (name, scores) in enumerate(result["hospitals"].items()):
        hospital = str(number) + (
            f" ({tables.short(result['names'][number])})" if result["names"] else ""
        )
        alone = comparison.spread([one["balanced_accuracy"] for one in scores])
        found = result["federated_minus"]["balanced_accuracy"][name]
        rows.append([hospital, alone, comparison.in_words(comparison.Difference(**found))])
    return tables.markdown_table(["hospital", "balanced accuracy alone", "federated - alone"], rows)
