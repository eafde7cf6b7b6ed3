"""From the evaluations of the runs to docs/methods.md."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med.evaluation import comparison
from fedjax_med.experiment import build, config, config_file, resolve
from studies import tables
from studies.markdown import made_on, table
from studies.runner import DIVERGED, ROOT, folder_of
from studies.tables import Named, Run

NUM_CLASSES = 9

HEAD = """# Every method on the real images

Written by `python scripts/methods.py --data_dir=DATA` ({on}).

All runs are [configs/isic9_small.py](../configs/isic9_small.py) with a few fields changed: a
network of {parameters} parameters from scratch on 32 x 32 pixels, plain SGD at the clients,
{rounds} rounds of one epoch, tested on a fifth of Train. Figures are balanced accuracies (chance
is 0.11): mean ± standard deviation over three seeds, each with another fifth; Test was not touched.
The strengths are those of the papers, or were set once by how large an update is; none was tuned
for these tables, so they tell what a method does, not what it could at its best. Differences below
the standard deviation, which is 0.01 to 0.05 for most, tell nothing.
"""

ABOUT = {
    "algorithms": """## Algorithms

Five hospitals, divided equally, by a Dirichlet distribution with 0.3, or with three of the nine
classes each (with seed 7 for 2, by which two nearly equal images of two classes fit into no
hospital). Where clients have models of their own (`fed_bn` to "each hospital alone") each
hospital's test images are predicted by its own model: that need not know the classes which the
hospital has none of, which helps it there and would not elsewhere.
""",
    "attacks": """## Aggregators under attack

Seven hospitals (which `bulyan` needs), of which the first is hostile. Of the backdoor the table
has, in brackets, the share of the test images of other classes that its trigger turns into the
hostile client's class, too.
""",
    "compression": """## Compression

Five hospitals, `mean`. What all clients together send in all rounds; positions, scales and seeds
are counted.
""",
    "privacy": """## Differential privacy

For five hospitals each *image* is protected, by DP-SGD at the hospital; for 50 clients each
*client*, by noise in the aggregator. Delta is 1e-5; what is promised, to whom and against whom is
in [privacy.md](privacy.md). Here the noise follows the seed, so that the table can be made again;
by itself a run draws it from a secret.
""",
}


class Found(NamedTuple):
    """What the runs of one cell of a table gave."""

    evaluations: list[dict[str, Any]]
    bytes_up: int  # of all clients in all rounds, of the first run
    diverged: int  # runs that came to NaN or infinity

    def __str__(self) -> str:
        """Format mean ± standard deviation, and the number of runs that diverged, if any."""
        balanced = [one["balanced_accuracy"] for one in self.evaluations]
        told = comparison.spread(balanced) if balanced else ""
        if self.diverged:
            told += f" (diverged: {self.diverged})"
        return told.strip() or "-"


def find(runs: Sequence[Run], workdir: Path) -> Found:
    """Read the evaluations of those of the runs that have one."""
    folders = [folder_of(run, workdir) for run in runs]
    there = [folder for folder in folders if (folder / "evaluation.json").exists()]
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in there]
    diverged = sum((folder / DIVERGED).exists() for folder in folders)
    return Found(evaluations, _bytes_up(there[0]) if there else 0, diverged)


def _bytes_up(folder: Path) -> int:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("bytes_up", 0) for line in lines)


Cell = Callable[[Found], str]


def grid(name: str, first: str, runs: Sequence[Run], workdir: Path, cell: Cell = str) -> str:
    """Format the table `name`, with a cell for what the runs of a row and a column gave."""
    rows, columns = tables.TABLES[name]

    def at(row: str, column: str) -> str:
        mine = [run for run in runs if run[:3] == (name, row, column)]
        return cell(find(mine, workdir))

    return table([first, *columns], [[row, *(at(row, one) for one in columns)] for row in rows])


def attack_cell(found: Found) -> str:
    """Format balanced accuracy, and how often a backdoor's trigger works."""
    taken = [door["success"] for one in found.evaluations for door in one.get("backdoors", ())]
    return f"{found} ({100 * statistics.fmean(taken):.0f} %)" if taken else str(found)


def by_row(name: str, runs: Sequence[Run], workdir: Path) -> dict[str, Found]:
    """Find what each row of a table with one column gave."""
    return {
        row: find([run for run in runs if run[:2] == (name, row)], workdir)
        for row in tables.TABLES[name].rows
    }


def compression_table(runs: Sequence[Run], workdir: Path) -> str:
    """Format the bytes and the balanced accuracy of each compression."""
    rows, plain = [], 0
    for row, found in by_row("compression", runs, workdir).items():
        plain = plain or found.bytes_up
        less = f"{plain / found.bytes_up:.1f}" if found.bytes_up else "-"
        rows.append([row, f"{found.bytes_up / 1e6:.2f} MB", less, str(found)])
    return table(["messages", "sent by all clients", "times less", "balanced accuracy"], rows)


def privacy_table(runs: Sequence[Run], workdir: Path) -> str:
    """Format the epsilon that was spent, the noise for it, and balanced accuracy."""
    rows = []
    for row, found in by_row("privacy", runs, workdir).items():
        spent = [one["privacy"] for one in found.evaluations if "privacy" in one]
        epsilon = f"{max(one['epsilon'] for one in spent):.2f}" if spent else "unbounded"
        noise = f"{max(one['noise_multiplier'] for one in spent):.2f}" if spent else "0"
        rows.append([row, epsilon, noise, str(found)])
    header = ["who; protected; target", "epsilon", "noise multiplier", "balanced accuracy"]
    return table(header, rows)


FORMATS: dict[str, Callable[[Sequence[Run], Path], str]] = {
    "algorithms": lambda runs, workdir: grid("algorithms", "algorithm", runs, workdir),
    "attacks": lambda runs, workdir: grid("attacks", "aggregator", runs, workdir, attack_cell),
    "compression": compression_table,
    "privacy": privacy_table,
}


def document(runs: Sequence[Run], workdir: Path) -> str:
    """Write the page, from those of the runs that are done."""
    experiment = config_file.read(str(ROOT / tables.CONFIG))
    head = HEAD.format(
        on=made_on("jax"),
        parameters=f"{num_parameters(experiment):,}",
        rounds=experiment.rounds,
    )
    names = dict.fromkeys(run.table for run in runs)
    parts = [f"{ABOUT[name]}\n{FORMATS[name](runs, workdir)}\n" for name in names]
    return "\n".join([head, *parts, as_flags()])


AS_FLAGS = """## As flags

What is in the tables, as flags behind `--config=configs/isic9_small.py --config.fold=SEED
--config.seed=SEED`; under attack with `--config.num_clients=7`, too.
"""


def as_flags() -> str:
    """List the flags that make the rows and columns of all tables."""
    every: list[Named] = [
        tables.ALGORITHMS,
        tables.PARTITIONS,
        tables.AGGREGATORS,
        tables.ATTACKS,
        tables.COMPRESSIONS,
        tables.PRIVACY,
    ]
    rows = [
        [name, " ".join(f"`{flag}`" for flag in tables.flags(changes))]
        for changes_of in every
        for name, changes in changes_of.items()
        if changes
    ]
    return f"{AS_FLAGS}\n{table(['row or column', 'flags'], rows)}\n"


def num_parameters(experiment: config.Experiment) -> int:
    """Count the parameters of the network that all runs train."""
    side = experiment.image_size
    model = build.build_model(resolve.complete(experiment), NUM_CLASSES)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (side, side, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
