"""Trains and tests all that docs/methods.md tells of, and writes it.

Run: python scripts/methods.py --data_dir=DATA [--cache_dir=FOLDER] [--workdir=runs/methods]

Every run is configs/isic9_small.py with a few fields changed, tested on a fifth of Train: seed s
leaves out fold s (modulo 5), and Test is not touched. Some of the tables alone:
--tables=algorithms,attacks,compression,privacy. Given again it goes on where it stopped and writes
the file anew.

Runs go on one core each, so many at a time (--jobs): about two hours on two cores, and a third of
it with --seeds=0.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import statistics
import sys
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.core.types import Examples
from fedjax_med.data.dataset import Split

ROOT = Path(__file__).parent.parent
CONFIG = "configs/isic9_small.py"
OUT = ROOT / "docs" / "methods.md"
TABLES = ("algorithms", "attacks", "compression", "privacy")
ROOM = 1024  # examples that every client has room for
# By seed 2 no hospital has both classes of two images that are nearly the same.
INSTEAD = {("3 classes each", 2): 7}  # with the same fold
DIVERGED = "diverged.txt"  # in the folder of a run that came to NaN or infinity

Changes = tuple[str, ...]  # flags behind --config.


def named(kind: str, name: str, **options: object) -> Changes:
    """The flags that choose `name` for the field `kind`, with options."""
    return f"{kind}.name={name}", *(f"{kind}.options.{k}={v}" for k, v in options.items())


def listed(kind: str, *specs: tuple[str, dict[str, object]]) -> Changes:
    """The flags that choose several for the field `kind`, in their order."""
    names = ",".join(name for name, _ in specs)
    options = [
        f"{kind}[{i}].options.{k}={v}"
        for i, (_, given) in enumerate(specs)
        for k, v in given.items()
    ]
    return f"{kind}={names}", *options


PARTITIONS = {
    "equal": (),
    "Dirichlet 0.3": named("partition", "dirichlet", alpha=0.3),
    "3 classes each": named("partition", "labels_per_client", k=3),
}
ALGORITHMS = {
    "`fed_avg`": (),
    "`fed_avg`, momentum on the server (FedAvgM)": named(
        "server_optimizer", "sgd", learning_rate=0.5, momentum=0.5
    ),
    "`fed_avg`, Adam on the server (FedAdam)": named(
        "server_optimizer", "adam", learning_rate=0.01, b1=0.5, b2=0.99, eps=0.001
    ),
    "`fed_prox`": named("algorithm", "fed_prox", mu=0.01),
    "`scaffold`": named("algorithm", "scaffold"),
    "`fed_nova`": named("algorithm", "fed_nova"),
    "`fed_dyn`": named("algorithm", "fed_dyn", alpha=0.01),
    "`moon`": named("algorithm", "moon", mu=1.0),
    "`fed_bn`": named("algorithm", "fed_bn"),
    "`fed_per`": named("algorithm", "fed_per"),
    "`fed_rep`": named("algorithm", "fed_rep", head_epochs=1),
    "`ditto`": named("algorithm", "ditto", weight=0.1),
    "`apfl`": named("algorithm", "apfl", alpha=0.5),
    "`ifca`": named("algorithm", "ifca", clusters=2, spread=1.0),
    "`cfl`": named("algorithm", "cfl", clusters=3, mean_norm=0.6, max_norm=1.2),
    "each hospital alone": named("algorithm", "apfl", alpha=1.0),
    "centralized": ("setting=centralized",),
}
AGGREGATORS = {
    "`mean`": (),
    "`mean`, uniform": named("aggregator", "mean", weighting="uniform"),
    "`median`": named("aggregator", "median"),
    "`trimmed_mean`": named("aggregator", "trimmed_mean", share=0.2),
    "`geometric_median`": named("aggregator", "geometric_median"),
    "`krum`": named("aggregator", "krum", hostile=1),
    "`krum` of 4 (multi-Krum)": named("aggregator", "krum", hostile=1, keep=4),
    "`bulyan`": named("aggregator", "bulyan", hostile=1),
    "`norm_bounded_mean`": named("aggregator", "norm_bounded_mean"),
    "`q_fair`": named("aggregator", "q_fair", q=1.0, learning_rate=10.0),
    "`agnostic`": named("aggregator", "agnostic"),
}
ATTACKS: dict[str, Changes] = {
    "none": (),
    "`label_flip`": listed("attacks", ("label_flip", {})),
    "`sign_flip`": listed("attacks", ("sign_flip", {"scale": 10.0})),
    "`scaled_update`": listed("attacks", ("scaled_update", {"scale": 20.0})),
    "`gaussian_noise`": listed("attacks", ("gaussian_noise", {"std": 0.3})),
    "`inner_product`": listed("attacks", ("inner_product", {"epsilon": 10.0})),
    "`backdoor`": listed(
        "attacks", ("backdoor", {"target": 4, "size": 6}), ("scaled_update", {"scale": 3.0})
    ),
}
COMPRESSIONS: dict[str, Changes] = {
    "none (float32)": (),
    "`low_precision`, bfloat16": listed("transforms", ("low_precision", {})),
    "`low_precision`, float16": listed("transforms", ("low_precision", {"kind": "float16"})),
    **{
        f"`quantize`, {bits} bit{'s' * (bits > 1)}": listed(
            "transforms", ("quantize", {"bits": bits})
        )
        for bits in (8, 4, 2, 1)
    },
    **{
        f"`quantize`, {bits} bit{'s' * (bits > 1)}, rotated": listed(
            "transforms", ("quantize", {"bits": bits, "rotate": True})
        )
        for bits in (8, 4, 2, 1)
    },
    "`top_k`, 10 %": listed("transforms", ("top_k", {"share": 0.1})),
    "`top_k`, 1 %": listed("transforms", ("top_k", {"share": 0.01})),
    "`top_k`, 1 %, without memory": listed(
        "transforms", ("top_k", {"share": 0.01, "error_feedback": False})
    ),
    "`random_k`, 10 %": listed("transforms", ("random_k", {"share": 0.1})),
    "`top_k`, 10 %, then `quantize`, 4 bits": listed(
        "transforms", ("top_k", {"share": 0.1}), ("quantize", {"bits": 4, "sparse": True})
    ),
}
EXAMPLES = ("privacy.unit=example", "privacy.clip_norm=1.0", "privacy.noise_from=seed")
CLIENTS = ("privacy.unit=client", "privacy.clip_norm=0.5", "privacy.noise_from=seed")
FIFTY = ("num_clients=50",)
PRIVACY: dict[str, Changes] = {
    "five hospitals, none": (),
    **{
        f"five hospitals, each image, {epsilon}": (
            *EXAMPLES,
            f"privacy.target_epsilon={epsilon}.0",
        )
        for epsilon in (16, 8, 4, 2, 1)
    },
    "50 clients, none": FIFTY,
    **{
        f"50 clients, each client, {epsilon}": (
            *FIFTY,
            *CLIENTS,
            f"privacy.target_epsilon={epsilon}.0",
        )
        for epsilon in (64, 16, 8)
    },
}


class Run(NamedTuple):
    """One training, and where it stands in the tables."""

    table: str
    row: str
    column: str
    seed: int
    changes: Changes


def runs(tables: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """All runs of the tables."""
    grids: dict[str, tuple[dict[str, Changes], dict[str, Changes]]] = {
        "algorithms": (ALGORITHMS, PARTITIONS),
        "attacks": (
            AGGREGATORS,
            {name: (*flags, "num_clients=7") for name, flags in ATTACKS.items()},
        ),
        "compression": (COMPRESSIONS, {"": ()}),
        "privacy": (PRIVACY, {"": ()}),
    }
    return [
        Run(table, row, column, INSTEAD.get((column, seed), seed), (*first, *second))
        for table in tables
        for seed in seeds
        for column, second in grids[table][1].items()
        for row, first in grids[table][0].items()
    ]


def folder_of(run: Run, workdir: Path) -> Path:
    """Where the run lives: runs with the same flags are one, and those of other code are others."""
    from fedjax_med.run.provenance import code_version

    text = json.dumps([code_version(), (ROOT / CONFIG).read_text(), run.seed, sorted(run.changes)])
    return workdir / hashlib.sha256(text.encode()).hexdigest()[:16]


def train(job: tuple[Path, Run, list[str]]) -> tuple[Run, str]:
    """Train and test in this process; returns what went wrong, or nothing."""
    folder, run, data = job
    if (folder / "evaluation.json").exists() or (folder / DIVERGED).exists():
        return run, ""
    import jax  # here: the processes choose their core before JAX starts

    from fedjax_med.cli import main as cli
    from fedjax_med.data import client_data

    def roomy(split: Split, parts: Any, room: int = 0) -> Examples:
        return stacked(split, parts, max(room, ROOM))

    stacked = client_data.stack
    command = [
        "train",
        "--evaluate",
        f"--config={ROOT / CONFIG}",
        *data,
        f"--workdir={folder}",
        f"--config.seed={run.seed}",
        f"--config.fold={run.seed % 5}",
        *(f"--config.{change}" for change in run.changes),
    ]
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        # Padding changes no bit of a result, and with the same shapes a method compiles once.
        unittest.mock.patch.object(client_data, "stack", roomy),
    ):
        code = cli.main(command)
    jax.clear_caches()  # hundreds of programs come to the system's limit of memory maps
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text(f"fedjax-med {' '.join(command)}\n{said.getvalue()}")
    last = said.getvalue().strip().splitlines()[-1]
    if code and "NaN or infinity" in last:  # which is a result, too
        (folder / DIVERGED).write_text(last)
        return run, "diverged"
    return run, "" if code == 0 else last


def pin(cores: "multiprocessing.Queue[list[int]]") -> None:
    """Give this process a core of its own, so that it starts one thread."""
    if mine := cores.get():
        os.sched_setaffinity(0, mine)


def train_all(jobs: list[tuple[Path, Run, list[str]]], at_a_time: int) -> int:
    """Train what is not there yet; returns how many went wrong."""
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: Any = context.Queue()
    for job in range(at_a_time):
        free.put(cores[job::at_a_time] or cores)
    wrong = 0
    with context.Pool(at_a_time, pin, (free,)) as pool:
        for number, (run, problem) in enumerate(pool.imap_unordered(train, jobs), 1):
            name = " ".join((run.table, run.row, run.column, str(run.seed)))
            print(f"[{number} of {len(jobs)}] {name} {problem}", flush=True)
            wrong += problem not in ("", "diverged")
    return wrong


class Found(NamedTuple):
    """What the runs of one cell of a table gave."""

    balanced: list[float]
    evaluations: list[dict[str, Any]]
    bytes_up: int  # of all clients in all rounds, of the first run
    diverged: int  # runs that came to NaN or infinity

    def __str__(self) -> str:
        """Mean ± standard deviation, and what is behind it where that is not three runs."""
        told = spread(self.balanced) if self.balanced else ""
        if self.diverged:
            told += f" (diverged: {self.diverged})"
        return told.strip() or "-"


def find(found: Sequence[Run], workdir: Path) -> Found:
    """The evaluations that are there of the runs."""
    folders = [folder_of(run, workdir) for run in found]
    there = [folder for folder in folders if (folder / "evaluation.json").exists()]
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in there]
    up = 0
    if there:
        lines = (there[0] / "metrics.jsonl").read_text().splitlines()
        up = sum(json.loads(line).get("bytes_up", 0) for line in lines)
    diverged = sum((folder / DIVERGED).exists() for folder in folders)
    return Found([one["balanced_accuracy"] for one in evaluations], evaluations, up, diverged)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


Cell = Callable[[Sequence[Run]], str]


def grid(name: str, first: str, every: Sequence[Run], cell: Cell) -> str:
    """The table whose rows and columns the runs name."""
    mine = [run for run in every if run.table == name]
    rows, columns = (
        list(dict.fromkeys(values)) for values in zip(*[r[1:3] for r in mine], strict=True)
    )
    cells = [
        [row, *(cell([r for r in mine if (r.row, r.column) == (row, c)]) for c in columns)]
        for row in rows
    ]
    return table([first, *columns], cells)


def attack_cell(workdir: Path) -> Cell:
    """Balanced accuracy, and how often a backdoor's trigger works."""

    def cell(mine: Sequence[Run]) -> str:
        found = find(mine, workdir)
        taken = [door["success"] for one in found.evaluations for door in one.get("backdoors", ())]
        moved = f" ({100 * statistics.fmean(taken):.0f} %)" if taken else ""
        return str(found) + moved

    return cell


def compression_table(every: Sequence[Run], workdir: Path) -> str:
    """Bytes and balanced accuracy of each compression."""
    rows, plain = [], 0
    for row in COMPRESSIONS:
        mine = [run for run in every if (run.table, run.row) == ("compression", row)]
        found = find(mine, workdir)
        plain = plain or found.bytes_up
        megabytes = f"{found.bytes_up / 1e6:.2f} MB"
        less = f"{plain / found.bytes_up:.1f}" if found.bytes_up else "-"
        rows.append([row, megabytes, less, str(found)])
    header = ["messages", "sent by all clients", "times less", "balanced accuracy"]
    return table(header, rows)


def privacy_table(every: Sequence[Run], workdir: Path) -> str:
    """The epsilon that was spent, the noise for it, and balanced accuracy."""
    rows = []
    for row in PRIVACY:
        mine = [run for run in every if (run.table, run.row) == ("privacy", row)]
        found = find(mine, workdir)
        spent = [one["privacy"] for one in found.evaluations if "privacy" in one]
        epsilon = f"{max(one['epsilon'] for one in spent):.2f}" if spent else "unbounded"
        noise = f"{max(one['noise_multiplier'] for one in spent):.2f}" if spent else "0"
        rows.append([row, epsilon, noise, str(found)])
    return table(
        ["who; protected; target", "epsilon", "noise multiplier", "balanced accuracy"], rows
    )


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


def document(every: Sequence[Run], workdir: Path) -> str:
    """The page, of what is there of the runs."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import machine

    from fedjax_med.experiment.config import read

    host = machine.describe()
    experiment = read(str(ROOT / CONFIG))
    parts = [
        HEAD.format(
            on=f"{host['cores']} cores of {host['machine']}, jax {host['versions']['jax']}",
            parameters=f"{num_parameters():,}",
            rounds=experiment.rounds,
        )
    ]
    tables: dict[str, Callable[[], str]] = {
        "algorithms": lambda: grid(
            "algorithms", "algorithm", every, lambda mine: str(find(mine, workdir))
        ),
        "attacks": lambda: grid("attacks", "aggregator", every, attack_cell(workdir)),
        "compression": lambda: compression_table(every, workdir),
        "privacy": lambda: privacy_table(every, workdir),
    }
    for name in dict.fromkeys(run.table for run in every):
        parts.append(f"{ABOUT[name]}\n{tables[name]()}\n")
    return "\n".join([*parts, flags()])


def flags() -> str:
    """The flags that make the rows and columns of all tables."""
    rows = [
        [name, " ".join(f"`--config.{change}`" for change in changes)]
        for changes_of in (ALGORITHMS, PARTITIONS, AGGREGATORS, ATTACKS, COMPRESSIONS, PRIVACY)
        for name, changes in changes_of.items()
        if changes
    ]
    about = """## As flags

What is in the tables, as flags behind `--config=configs/isic9_small.py --config.fold=SEED
--config.seed=SEED`; under attack with `--config.num_clients=7`, too.
"""
    return f"{about}\n{table(['row or column', 'flags'], rows)}\n"


def num_parameters() -> int:
    """Of the network that all runs train."""
    import jax

    from fedjax_med.experiment import build, resolve
    from fedjax_med.experiment.config import read

    experiment = resolve.complete(read(str(ROOT / CONFIG)))
    side = experiment.image_size
    model = build.build_model(experiment, 9)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (side, side, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def main() -> int:
    """Train what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cache_dir", default="")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write_only", action="store_true", help="of what is there already")
    given = parser.parse_args()
    every = runs(given.tables.split(","), [int(seed) for seed in given.seeds.split(",")])
    data = [f"--data_dir={given.data_dir}"]
    data += [f"--cache_dir={given.cache_dir}"] if given.cache_dir else []
    workdir = given.workdir.absolute()
    jobs = {folder_of(run, workdir): run for run in reversed(every)}
    order = [(folder, run, data) for folder, run in reversed(jobs.items())]
    wrong = 0 if given.write_only else train_all(order, given.jobs)
    OUT.write_text(document(every, workdir))
    print(f"Written: {OUT}" + (f"; {wrong} runs went wrong" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
