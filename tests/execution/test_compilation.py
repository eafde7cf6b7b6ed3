import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import _ema, fed_avg
from fedjax_med.client import augmentation, losses, optimizers
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation
from fedjax_med.core.model import IMAGENET_MEAN, IMAGENET_STD
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.data import client_data
from fedjax_med.data.dataset import Split
from fedjax_med.evaluation import predict
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import fit_to_memory, round_loader
from fedjax_med.experiment import build, components
from fedjax_med.experiment.config import Augment, Client, Experiment, Loss, Spec
from fedjax_med.experiment.plan import compile_plan, first_state
from fedjax_med.experiment.resolve import complete
from fedjax_med.transforms import clip

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if "backend_compile" in event else None
)


KEY = jax.random.key(0)
SIZES = (5, 3, 6, 2, 4, 1, 7, 2)


def network(strategy, num_clients):
    return complete(
        Experiment(
            num_clients=num_clients,
            map_clients=strategy,
            model=Spec("cnn", {"widths": (4,), "groups": 2}),
            client=Client(batch_size=4),
            server_optimizer=Spec("adam", {"learning_rate": 0.01}),
        )
    )


def assembled(strategy, num_clients):
    experiment = network(strategy, num_clients)
    plan = toy.planned(experiment)
    compiled = compile_plan(plan)
    data = toy.federation(SIZES[:num_clients])
    filled = client_data.fill_clients(data, compiled.placement.rows)
    state = jax.device_put(first_state(plan, data), compiled.placement.state)
    return compiled, state, jax.device_put(filled, compiled.placement.data)


@pytest.mark.parametrize("strategy", toy.CLIENT_MAPS)
@pytest.mark.parametrize("num_clients", [5, 8])  # four devices: uneven, even
def test_many_rounds_compile_once_and_stay_in_place(strategy, num_clients):
    compiled, state, data = assembled(strategy, num_clients)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, _ = compiled.run_round(state, RoundBatch(data), KEY)
    COMPILED.clear()
    for _ in range(3):
        before = state
        state, metrics = compiled.run_round(state, RoundBatch(data), KEY)
        jax.block_until_ready(metrics)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))  # not held twice
    assert COMPILED == []
    same = jax.tree.map(lambda leaf, old: leaf.sharding == old, state, places)
    assert all(jax.tree.leaves(same))
    assert int(state.round) == 4


def test_sharded_clients_lie_on_their_devices():
    _, _, data = assembled("sharded_vmap", 8)
    assert {shard.data.shape[0] for shard in data.image.addressable_shards} == {2}
    _, _, uneven = assembled("sharded_vmap", 5)
    assert [shard.data.shape[0] for shard in uneven.image.addressable_shards] == [2] * 4


@pytest.mark.parametrize("strategy", toy.CLIENT_MAPS[1:])
def test_a_real_network_learns_the_same_under_every_client_map(strategy):
    results = []
    for name in ("vmap", strategy):
        compiled, state, data = assembled(name, 5)
        for _ in range(3):
            state, metrics = compiled.run_round(state, RoundBatch(data), KEY)
        results.append(jax.tree.map(np.asarray, (state.server.params, metrics["loss"])))
    toy.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("memory", [pytest.param(float("inf"), marks=pytest.mark.slow), 1e4])
def test_the_program_that_fits_is_compiled_once(monkeypatch, devices, memory):
    picked = backend.pick("gpu", devices, backend.Workload(0, True))
    monkeypatch.setattr(backend, "pick", lambda *sizes: picked)
    monkeypatch.setattr(backend, "bytes_free", lambda: memory)
    monkeypatch.setattr(backend, "_WITHOUT_LIBRARY", None)  # as on accelerators
    compiled, state, data = assembled("auto", 8)
    pooled = jax.tree.map(lambda leaf: np.asarray(leaf[data.mask]), data)
    none = np.zeros(sum(SIZES))
    split = Split(pooled.image, pooled.label, none, none, none, none)
    held = client_data.ClientData(split, np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1]))
    jax.block_until_ready((state, data))
    COMPILED.clear()
    compiled = fit_to_memory(compiled, lambda: state, held, KEY)
    with contextlib.closing(round_loader(compiled, held, KEY, 2)) as feed:
        for number in (1, 2):
            state, metrics = compiled.run_round(state, feed.get(number), KEY)
            jax.block_until_ready(metrics)
    fits = memory > 1e4
    assert compiled.backend.name == (picked if fits else picked.smaller()).name
    assert len(COMPILED) == (1 if fits else 2)  # where it doesn't fit, the larger one in vain


def with_other_normalisation(model):
    """`model` of images that are normalised in another way, which `apply` takes back."""

    def apply(params, images, key):
        pixels = images * jnp.array([[[[0.1, 0.2, 0.4]]]]) + 0.3
        normal = (pixels - jnp.array([[[IMAGENET_MEAN]]])) / jnp.array([[[IMAGENET_STD]]])
        return model.apply(params, normal, key)

    return model._replace(apply=apply, mean=(0.3, 0.3, 0.3), std=(0.1, 0.2, 0.4))


@pytest.mark.slow
def test_images_are_normalised_as_the_model_says_in_training_and_evaluation(monkeypatch):
    data = toy.federation((5, 3, 6))
    plain = two_rounds_as_assembled()
    model = build.build_model(network("vmap", 3), toy.CLASSES)
    other = with_other_normalisation(model)
    np.testing.assert_allclose(
        predict.probabilities(other, plain, data.image),
        predict.probabilities(model, plain, data.image),
        rtol=1e-4,
        atol=1e-5,
    )
    build_model = build.build_model
    monkeypatch.setattr(
        build, "build_model", lambda *what: with_other_normalisation(build_model(*what))
    )
    toy.assert_close(two_rounds_as_assembled(), plain, rtol=1e-4, atol=1e-5)


COUNTS = [6, 2, 9]
CNN = Spec("cnn", {"widths": (4,), "groups": 2})
PLAIN = {
    "model": CNN,
    "augment": toy.STILL,
    "server_optimizer": Spec("sgd", {"learning_rate": 1.0}),
    "client": Client(1, 4, Spec("sgd", {"learning_rate": 0.1}), "constant"),
}


def client(**changes):
    return dataclasses.replace(PLAIN["client"], **changes)


def two_rounds_as_assembled(**changes):
    experiment = complete(Experiment(rounds=4, num_clients=3, **(PLAIN | changes)))
    plan, data = toy.planned(experiment, COUNTS), toy.federation((5, 3, 6))
    compiled, state = compile_plan(plan), first_state(plan, data)
    for _ in range(2):
        state, _ = compiled.run_round(state, RoundBatch(data), plan.key)
    return state.server.params


def two_rounds_by_hand(
    changes=toy.STILL,
    weights=(1.0, 1.0, 1.0),
    smoothing=0.0,
    aggregator=None,
    optimizer=None,
    server=None,
    epochs=1,
    batch_size=4,
    schedule=None,
    adjustment=None,
    ema_decay=0,
):
    """The same without any configuration; in parts of four images, as on every CPU."""
    model = components.build("models", CNN, toy.CLASSES)
    grad_fn = losses.cross_entropy(
        model,
        augmentation.build(changes),
        jnp.array(weights, jnp.float32),
        smoothing,
        4,
        adjustment,
    )
    training = LocalTrainer(grad_fn, optimizer or optax.sgd(0.1), epochs, batch_size)
    training = training._replace(schedule=schedule or training.schedule)
    algorithm, aggregator = (
        fed_avg.build(training, server or optax.sgd(1.0)),
        aggregator or mean.build(),
    )
    algorithm = _ema.with_ema(algorithm, ema_decay) if ema_decay else algorithm
    init_key, rounds_key = jax.random.split(jax.random.key(0))
    data = toy.federation((5, 3, 6))
    state = Process(algorithm, aggregator).init(model.init(init_key, toy.IMAGE), data)
    for _ in range(2):
        state, _ = Process(algorithm, aggregator).round(state, data, rounds_key)
    return state.server.params


def balanced(beta):
    effective = np.array([(1 - beta**count) / (1 - beta) for count in COUNTS])
    return 1 / effective * sum(COUNTS) / sum(COUNTS / effective)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "by_hand"),
    [
        ({}, {}),
        ({"loss": Loss(class_balance=0.9)}, {"weights": balanced(0.9)}),
        ({"loss": Loss(label_smoothing=0.3)}, {"smoothing": 0.3}),
        ({"augment": Augment()}, {"changes": Augment()}),
        (
            {"transforms": [Spec("clip", {"norm": 0.01})]},
            {"aggregator": aggregation.chain(clip.build(norm=0.01), aggregator=mean.build())},
        ),
        (
            {"aggregator": Spec("mean", {"weighting": "uniform"})},
            {"aggregator": mean.build(weighting="uniform")},
        ),
        (
            {"client": client(schedule="cosine")},
            {"schedule": lambda number: (1 + jnp.cos(jnp.pi * number / 4)) / 2},
        ),
        (
            {"loss": Loss(logit_adjustment=0.5)},
            {"adjustment": 0.5 * jnp.log(jnp.array(COUNTS) / sum(COUNTS))},
        ),
        (
            {"client": client(backbone_rate=0.1)},
            {"optimizer": optimizers.discriminative_rates(optax.sgd(0.1), 0.1, "classifier")},
        ),
        ({"ema_decay": 0.9}, {"ema_decay": 0.9}),
        ({"client": client(epochs=2)}, {"epochs": 2}),
        ({"client": client(batch_size=2)}, {"batch_size": 2}),
        (
            {"client": client(optimizer=Spec("adam", {"learning_rate": 0.02}))},
            {"optimizer": optax.adam(0.02)},
        ),
        (
            {"server_optimizer": Spec("adam", {"learning_rate": 0.02})},
            {"server": optax.adam(0.02)},
        ),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
def test_every_field_reaches_the_training(field, by_hand):
    assembled = two_rounds_as_assembled(**field)
    toy.assert_close(assembled, two_rounds_by_hand(**by_hand), rtol=1e-4, atol=1e-5)
    if field:
        plain = jax.tree.leaves(two_rounds_by_hand())
        moved = [
            np.abs(a - b).max() for a, b in zip(jax.tree.leaves(assembled), plain, strict=True)
        ]
        assert max(moved) > 1e-3
