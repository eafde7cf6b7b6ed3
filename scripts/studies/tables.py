"""The runs that docs/methods.md compares: the rows and columns of its tables, as changed fields."""

from collections.abc import Sequence
from typing import NamedTuple

CONFIG = "configs/isic9_small.py"
FOLDS = 5  # of the configuration: seed s leaves out fold s modulo this
# By seed 2 no hospital has both classes of two images that are nearly the same.
INSTEAD = {("3 classes each", 2): 7}  # with the same fold

Changes = dict[str, object]  # from fields of the experiment to their values
Named = dict[str, Changes]  # rows or columns of a table, by their names


def named(kind: str, name: str, **options: object) -> Changes:
    """Choose `name` for the field `kind`, with options."""
    return {f"{kind}.name": name, **{f"{kind}.options.{k}": v for k, v in options.items()}}


def listed(kind: str, *specs: tuple[str, dict[str, object]]) -> Changes:
    """Choose several for the field `kind`, in their order."""
    options = {
        f"{kind}[{i}].options.{k}": v
        for i, (_, given) in enumerate(specs)
        for k, v in given.items()
    }
    return {kind: ",".join(name for name, _ in specs), **options}


PARTITIONS: Named = {
    "equal": {},
    "Dirichlet 0.3": named("partition", "dirichlet", alpha=0.3),
    "3 classes each": named("partition", "labels_per_client", k=3),
}
ALGORITHMS: Named = {
    "`fed_avg`": {},
    "`fed_avg`, momentum on the server (FedAvgM)": named(
        "server_optimizer", "sgd", learning_rate=0.5, momentum=0.5
    ),
    "`fed_avg`, Adam of optax on the server": named(
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
    "centralized": {"setting": "centralized"},
}
AGGREGATORS: Named = {
    "`mean`": {},
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
ATTACKS: Named = {
    "none": {},
    "`label_flip`": listed("attacks", ("label_flip", {})),
    "`sign_flip`": listed("attacks", ("sign_flip", {"scale": 10.0})),
    "`scaled_update`": listed("attacks", ("scaled_update", {"scale": 20.0})),
    "`gaussian_noise`": listed("attacks", ("gaussian_noise", {"std": 0.3})),
    "`inner_product`": listed("attacks", ("inner_product", {"epsilon": 10.0})),
    "`backdoor`": listed(
        "attacks", ("backdoor", {"target": 4, "size": 6}), ("scaled_update", {"scale": 3.0})
    ),
}
COMPRESSIONS: Named = {
    "none (float32)": {},
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
EXAMPLES: Changes = {
    "privacy.unit": "example",
    "privacy.clip_norm": 1.0,
    "privacy.noise_from": "seed",
}
CLIENTS: Changes = {
    "privacy.unit": "client",
    "privacy.clip_norm": 0.5,
    "privacy.noise_from": "seed",
}
FIFTY: Changes = {"num_clients": 50}
PRIVACY: Named = {
    "five hospitals, none": {},
    **{
        f"five hospitals, each image, {epsilon:.0f}": EXAMPLES | {"privacy.target_epsilon": epsilon}
        for epsilon in (16.0, 8.0, 4.0, 2.0, 1.0)
    },
    "50 clients, none": FIFTY,
    **{
        f"50 clients, each client, {epsilon:.0f}": (
            FIFTY | CLIENTS | {"privacy.target_epsilon": epsilon}
        )
        for epsilon in (64.0, 16.0, 8.0)
    },
}


class Table(NamedTuple):
    """A table of docs/methods.md: each row is trained in each column."""

    rows: Named
    columns: Named


SEVEN: Changes = {"num_clients": 7}
TABLES = {
    "algorithms": Table(ALGORITHMS, PARTITIONS),
    "attacks": Table(AGGREGATORS, {name: attack | SEVEN for name, attack in ATTACKS.items()}),
    "compression": Table(COMPRESSIONS, {"": {}}),
    "privacy": Table(PRIVACY, {"": {}}),
}


class Run(NamedTuple):
    """One training, and where it stands in the tables."""

    table: str
    row: str
    column: str
    seed: int
    changes: Changes

    @property
    def name(self) -> str:
        """Return the place in the tables, in one line."""
        return " ".join(filter(None, (self.table, self.row, self.column, f"seed {self.seed}")))


def flags(changes: Changes) -> list[str]:
    """Write the changes as flags of `fedjax-med train`."""
    return [f"--config.{field}={value}" for field, value in changes.items()]


def runs(tables: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """List all runs of the tables."""
    return [
        Run(name, row, column, INSTEAD.get((column, seed), seed), {**first, **second})
        for name in tables
        for seed in seeds
        for column, second in TABLES[name].columns.items()
        for row, first in TABLES[name].rows.items()
    ]
