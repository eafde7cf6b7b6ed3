"""From what the commands wrote to docs/results.md."""

import datetime
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_med.data.images.decode import LIMIT, decode
from fedjax_med.evaluation import comparison, tables
from fedjax_med.files import read_regular
from fedjax_med.run.compare import markdown
from fedjax_med.run.metrics_file import read_records
from fedjax_med.run.provenance import code_version
from studies.markdown import made_on, table
from studies.results_steps import POLICIES, RECIPE, SEEDS, SHORT

MELANOMA = "melanoma"
PLOT = "results.png"  # beside the page


class Results(NamedTuple):
    """What the commands wrote in their workdirs.

    cross, short: of the cross-validation of the recipe, and of its short form.
    compared: of the comparison.
    tested: of the federated runs on Test, one for each seed.
    federated, folds, fast: the workdirs of those runs, and of the folds of `cross` and `short`.
    """

    cross: dict[str, Any]
    short: dict[str, Any]
    compared: dict[str, Any]
    tested: list[dict[str, Any]]
    federated: list[Path]
    folds: list[Path]
    fast: list[Path]


def read_all(workdir: Path) -> Results:
    """Read what `steps` wrote."""
    cross, short = workdir / "crossvalidation", workdir / "crossvalidation_short"
    federated = [workdir / f"comparison/seed_{seed}/federated" for seed in SEEDS]
    whole, fast = (read(folder / "crossvalidation.json") for folder in (cross, short))
    return Results(
        whole,
        fast,
        read(workdir / "comparison/comparison.json"),
        [read(folder / "evaluation.json") for folder in federated],
        federated,
        [cross / f"fold_{fold}" for fold in range(len(whole["folds"]))],
        [short / f"fold_{fold}" for fold in range(len(fast["folds"]))],
    )


def read(file: Path) -> dict[str, Any]:
    """Read what a command wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def minutes(workdirs: list[Path]) -> str:
    """Tell how long the rounds of these runs took: the shortest and the longest."""
    taken = [
        sum(one["seconds"] for one in read_records(folder / "metrics.jsonl", 2**31)) / 60
        for folder in workdirs
    ]
    return f"{min(taken):.1f} to {max(taken):.1f} minutes"


def melanoma(name: str, evaluations: list[dict[str, Any]]) -> list[str]:
    """Make the row of melanomas: how many, what is recognised, and what at 90 % specificity."""
    rows = [one["per_class"][MELANOMA] for one in evaluations]
    keys = ("sensitivity", "sensitivity_at_90_specificity", "auroc")
    cells = [comparison.spread([row[key] for row in rows]) for key in keys]
    return [name, str(rows[0]["support"]), *cells]


def policies(workdir: Path) -> str:
    """Make the table of the ways to treat the faults of the data."""
    found = [
        [read(workdir / f"{policy}/seed_{seed}/evaluation.json") for seed in SEEDS]
        for policy in POLICIES
    ]
    rows = [
        [name, *(comparison.spread([one[key] for one in runs]) for runs in found)]
        for key, name in tables.HEADLINES.items()
    ]
    return table(["Test", *(f"`{policy}`" for policy in POLICIES)], rows)


def targets(cross: dict[str, Any], short: dict[str, Any], compared: dict[str, Any]) -> str:
    """Make the table of what was to be reached, and what was."""

    def mean(setting: str, key: str) -> str:
        return comparison.spread([one[key] for one in compared["scores"][setting]])

    def minus(other: str) -> str:
        found = compared["federated_minus"]["balanced_accuracy"][other]
        return comparison.in_words(comparison.Difference(**found))

    def folds(result: dict[str, Any], key: str) -> str:
        return comparison.spread([one[key] for one in result["folds"]])

    rows = [
        ("Test, accuracy", "at least 0.65", mean("federated", "accuracy")),
        ("Test, balanced accuracy", "at least 0.62", mean("federated", "balanced_accuracy")),
        ("cross-validation, balanced accuracy", "at least 0.73", folds(cross, "balanced_accuracy")),
        ("cross-validation, macro AUROC", "at least 0.95", folds(cross, "macro_auroc")),
        ("cross-validation, expected calibration error", "at most 0.05", folds(cross, "ece")),
        ("the same of all folds' images together", "at most 0.05", f"{cross['ece']:.3f}"),
        (
            "federated - centralized, balanced accuracy on Test",
            "not below -0.01",
            minus("centralized"),
        ),
        ("federated - local, balanced accuracy on Test", "at least +0.10", minus("local")),
        (
            "short recipe, cross-validation, balanced accuracy",
            f"within 0.03 of {folds(cross, 'balanced_accuracy')}",
            folds(short, "balanced_accuracy"),
        ),
    ]
    return table(["", "target", "measured"], rows)


def appearance(data_dir: Path) -> str:
    """Make the table of what the files of melanomas in Train and in Test look like."""
    rows = []
    for part in ("Train", "Test"):
        files = sorted((data_dir / part / MELANOMA).iterdir())
        found = [re.search(r"ISIC_(\d+)", file.name) for file in files]
        numbers = sorted(int(one.group(1)) for one in found if one) or [0]
        ends = f"{numbers[0]}, {numbers[len(numbers) // 2]}, {numbers[-1]}"
        pixels = [decode(read_regular(file, LIMIT)).astype(np.float64) for file in files]
        colours = ", ".join(
            f"{one:.0f}" for one in np.mean([one.mean((0, 1)) for one in pixels], 0)
        )
        contrast = np.mean([one.mean(2).std() for one in pixels])
        rows.append([f"{part}, {len(files)}", ends, colours, f"{contrast:.0f}"])
    numbers_of = "ISIC numbers: lowest, median, highest"
    return table(["images", numbers_of, "mean red, green, blue", "contrast"], rows)


HEAD = """# Results on the real skin-cancer images

Written by `python scripts/results.py --data_dir=DATA` on {date}: {on}, {how}, code {code}. \
The recipe, `{recipe}`, was chosen inside Train by one of the five folds below and, of four forms, \
by all of them ([recipe.md](recipe.md) has what was tried), so that cross-validation is a little \
too good; Test was used for what is below, at the end. Values of folds and seeds are mean ± sd.
"""
ABOUT_MELANOMA = """The melanomas of Test come from another part of the ISIC archive (their \
numbers are lower) and look different: colours are means on 0 to 255, contrast is the standard \
deviation of the grey values within an image.
"""
ABOUT_FAULTS = """By the short recipe. `rarest` leaves out copies of test images and, of an image \
that was published under several labels, all but the rarest; `keep` trains on everything.
"""


def beginning(results: Results, how: str) -> list[str]:
    """Write what the page is of, what was reached, and how long it took."""
    values = {"date": f"{datetime.date.today():%d %B %Y}", "on": made_on("Python", "jax")}
    head = HEAD.format(**values, how=how, code=code_version(), recipe=RECIPE)
    taken = minutes(results.federated + results.folds)
    return [
        head,
        f"{targets(results.cross, results.short, results.compared)}\n",
        f"A federated run of the recipe trains for {taken}, one of the short recipe (`{SHORT}`) "
        f"for {minutes(results.fast)}.\n",
    ]


def comparisons(results: Results) -> list[str]:
    """Write the sections of the three settings and of cross-validation."""
    return [
        "## Federated, centralized and local\n",
        f"{markdown(results.compared)}\n",
        f"![Each seed of the three settings]({PLOT})\n",
        "## Cross-validation inside Train\n",
        f"{tables.markdown(results.cross['folds'], 'folds')}\n",
        "Together:\n",
        f"```\n{tables.table(results.cross)}\n```\n",
        "The short recipe:\n",
        f"{tables.markdown(results.short['folds'], 'folds')}\n",
    ]


def of_melanoma(results: Results, data_dir: Path) -> list[str]:
    """Write the section of melanoma."""
    rows = [
        melanoma("cross-validation inside Train, all folds together", [results.cross]),
        melanoma("Test", results.tested),
    ]
    header = ["", "images", "sensitivity", "sensitivity at 90 % specificity", "AUROC"]
    return [
        "## Melanoma\n",
        f"{table(header, rows)}\n",
        ABOUT_MELANOMA,
        f"{appearance(data_dir)}\n",
    ]


def text(workdir: Path, how: str, data_dir: Path) -> str:
    """Write the page, which says how the runs were computed."""
    results = read_all(workdir)
    parts = [
        *beginning(results, how),
        *comparisons(results),
        *of_melanoma(results, data_dir),
        "## The faults of the data: `rarest` and `keep`\n",
        ABOUT_FAULTS,
        f"{policies(workdir)}\n",
        "## Each seed on Test\n",
    ]
    for seed, one in zip(SEEDS, results.tested, strict=True):
        parts += [f"### Seed {seed}\n", f"```\n{tables.table(one)}\n```\n"]
    return "\n".join(parts)
