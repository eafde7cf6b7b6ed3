"""Any algorithm with any aggregator, transform and server optimizer: it trains, or says why not."""

import itertools

import jax
import numpy as np
import optax
import pytest
import toy

from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import build, components, resolve
from fedjax_med.experiment.config import Experiment, Spec

KEY = jax.random.key(5)
DATA = toy.federation((6, 5, 4, 6, 3))
TRAINING = LocalTrainer(
    toy.grad_fn(), optax.sgd(0.05), 1, 4, features=toy.features(), step_weight=sgd_step_weight()
)
OPTIONS = {
    "bulyan": {"hostile": 0},  # five clients
    "fed_bn": {"local": ("b",)},
    "fed_per": {"local": ("b",)},  # what is shared needs more than a few values
    "fed_rep": {"local": ("b",), "head_epochs": 1},
    "ifca": {"spread": 1.0},
    "cfl": {"mean_norm": 100.0, "max_norm": 1e-6},  # divides in the first round
    "quantize": {"bits": 8},
    "top_k": {"share": 0.3},
    "random_k": {"share": 0.3},
}
TRANSFORMS = (*components.names("transforms"), "")
OPTIMIZERS = (
    Spec("sgd", {"learning_rate": 1.0}),
    Spec("adam", {"learning_rate": 0.01}),
    Spec("sgd", {"learning_rate": 0.5, "momentum": 0.5}),
)
AGGREGATORS = components.names("aggregators")
ALGORITHMS = components.names("algorithms")
# Every algorithm with every aggregator; transforms and optimizers go round, so that each algorithm
# and each aggregator meets each of them.
ROWS = [
    (algorithm, aggregator, TRANSFORMS[(i + j) % len(TRANSFORMS)], OPTIMIZERS[(i + 2 * j) % 3])
    for (i, algorithm), (j, aggregator) in itertools.product(
        enumerate(ALGORITHMS), enumerate(AGGREGATORS)
    )
]
REFUSED = {
    ("ifca", "q_fair"): "weighs clients by the loss of one global model",
    ("ifca", "agnostic"): "weighs clients by the loss of one global model",
    ("cfl", "q_fair"): "weighs clients by the loss of one global model",
    ("cfl", "agnostic"): "weighs clients by the loss of one global model",
    ("ifca", "krum"): "clients in each cluster",
    ("cfl", "krum"): "clients in each cluster",
    ("ifca", "bulyan"): "clients in each cluster",
    ("cfl", "bulyan"): "clients in each cluster",
    ("ifca", "trimmed_mean"): "clients in each cluster",
    ("cfl", "trimmed_mean"): "clients in each cluster",
}


def named(name):
    return Spec(name, OPTIONS.get(name, {}))


def method_of(algorithm, aggregator, transform, optimizer):
    experiment = Experiment(
        algorithm=named(algorithm),
        aggregator=named(aggregator),
        transforms=[named(transform)] if transform else [],
        server_optimizer=optimizer,
    )
    return build.build_process(resolve.complete(experiment), TRAINING, toy.CLASSES, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join((*filter(None, row[:3]), row[3].name))
)
def test_composition_trains_or_says_why_not(row):
    if row[:2] in REFUSED:
        with pytest.raises(UserError, match=REFUSED[row[:2]]) as refused:
            method_of(*row)
        assert "\n" not in str(refused.value)
        return
    method = method_of(*row)
    state = Process(method.algorithm, method.aggregator).init(toy.params(), DATA)
    first = state
    for _ in range(2):
        state, metrics = Process(method.algorithm, method.aggregator).round(state, DATA, KEY)
    before, after = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s) for s in (first, state))
    assert before == after
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    moved = jax.tree.map(lambda a, b: a - b, first.server.params, state.server.params)
    assert 1e-4 < float(optax.tree.norm(moved)) < 20


def test_every_algorithm_and_aggregator_meets_every_transform_and_optimizer():
    for place in (0, 1):
        names = (ALGORITHMS, AGGREGATORS)[place]
        pairs = {(row[place], row[2]) for row in ROWS}
        wide = len((AGGREGATORS, ALGORITHMS)[place]) >= len(TRANSFORMS)
        assert not wide or pairs == set(itertools.product(names, TRANSFORMS))
        with_optimizer = {(row[place], str(row[3])) for row in ROWS}
        assert with_optimizer == set(itertools.product(names, map(str, OPTIMIZERS)))
