"""SCAFFOLD and FedDyn under transforms that lose something: clients know what was really sent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean, median
from fedjax_med.algorithms import _sending, fed_avg, fed_dyn, scaffold
from fedjax_med.algorithms._ema import with_ema
from fedjax_med.algorithms._report_loss import report_loss
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import client_map
from fedjax_med.core.aggregation import all_clients, chain
from fedjax_med.core.faults import Faults, Participation
from fedjax_med.core.process import Process, check_parts
from fedjax_med.core.types import Examples
from fedjax_med.transforms import clip, low_precision, quantize, random_k, top_k

KEY = jax.random.key(8)
SIZE = 20
SIZES = np.array([5, 9, 2, 7, 6])
_RNG = np.random.default_rng(0)
CURVATURES = _RNG.uniform(0.5, 1.5, (5, SIZE))
TARGETS = 0.5 * _RNG.normal(size=(5, SIZE))
_SHARE = SIZES[:, None] * CURVATURES
OPTIMUM = (_SHARE * TARGETS).sum(0) / _SHARE.sum(0)


def grad_fn(params, batch, key):
    """The gradient of the parabola sum(curvature / 2 * (w - target)^2), the same for a client."""
    del key
    curvature, target = (leaf[0] for leaf in batch.image)
    gradient = curvature * (params["w"] - target)
    zero, count = jnp.float32(0), jnp.sum(batch.mask, dtype=jnp.float32)
    return {"w": gradient}, {"loss": zero, "correct": zero, "count": count}


def examples():
    room = SIZES.max()
    image = tuple(
        jnp.asarray(np.repeat(of[:, None], room, 1), jnp.float32) for of in (CURVATURES, TARGETS)
    )
    mask = jnp.asarray(np.arange(room)[None] < SIZES[:, None])
    return Examples(image, jnp.zeros(mask.shape, jnp.int32), mask)


TRAINING = LocalTrainer(grad_fn, optax.sgd(0.1), 3, 0)
BUILD = {
    "fed_avg": fed_avg.build,
    "scaffold": scaffold.build,
    "fed_dyn": functools.partial(fed_dyn.build, alpha=1.0),
}


def process_of(name, *transforms, aggregator=None, **options):
    algorithm = BUILD[name](TRAINING, optax.sgd(1.0))
    return Process(algorithm, chain(*transforms, aggregator=aggregator or mean.build()), **options)


def start(process):
    return process.init({"w": jnp.asarray(OPTIMUM + 1.01 / np.sqrt(SIZE), jnp.float32)}, DATA)


DATA = examples()


def run(process, number):
    def step(state, _):
        return process.round(state, DATA, KEY)[0], None

    return jax.jit(lambda state: jax.lax.scan(step, state, length=number)[0])(start(process))


def distance(state):
    return float(np.linalg.norm(np.asarray(state.server.params["w"]) - OPTIMUM))


def test_fed_avg_rests_beside_the_optimum():
    """Else the tests below would show nothing."""
    assert 0.015 < distance(run(process_of("fed_avg"), 150)) < 0.04


LOSSY = {
    "random_k": random_k.build(share=0.25, error_feedback=False),
    "random_k with memory": random_k.build(share=0.5),
    "top_k": top_k.build(share=0.25),
    "quantize": quantize.build(bits=2),
    "low_precision": low_precision.build(),
    "clip": clip.build(norm=0.3),
}


@pytest.mark.parametrize("lossy", LOSSY)
@pytest.mark.parametrize("name", ["scaffold", "fed_dyn"])
def test_algorithm_comes_to_the_optimum_whatever_its_messages_lose(name, lossy):
    assert distance(run(process_of(name, LOSSY[lossy]), 150)) < 0.01


@pytest.mark.parametrize(("name", "share"), [("scaffold", 0.1), ("fed_dyn", 0.25)])
@pytest.mark.parametrize("module", [random_k, top_k])
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.slow
def test_algorithm_trains_with_few_values(name, share, module, memory):
    process = process_of(name, module.build(share=share, error_feedback=memory))
    assert distance(run(process, 300)) < 0.01


FEW = {
    "random_k without memory": random_k.build(share=0.1, error_feedback=False),
    "top_k": top_k.build(share=0.1),
    "top_k without memory": top_k.build(share=0.05, error_feedback=False),
    "quantize": quantize.build(bits=1),
    "clip": clip.build(norm=0.03),
}


def fed_dyn_ends(alpha, *transforms, number=150, **options):
    algorithm = fed_dyn.build(TRAINING, optax.sgd(1.0), alpha=alpha)
    process = Process(algorithm, chain(*transforms, aggregator=mean.build()), **options)
    check_parts(process)
    return distance(run(process, number))


@pytest.mark.parametrize("lossy", LOSSY)
def test_fed_dyn_trains_with_its_default_alpha_as_with_whole_messages(lossy):
    """Whole messages end 0.0155 away: with a small alpha it becomes FedAvg, which ends 0.024."""
    assert fed_dyn_ends(0.01, LOSSY[lossy]) < 0.018


@pytest.mark.parametrize("alpha", [0.1, 10.0])
@pytest.mark.parametrize("lossy", ["random_k", "top_k"])
def test_fed_dyn_comes_to_the_optimum_with_other_alphas(alpha, lossy):
    assert fed_dyn_ends(alpha, LOSSY[lossy]) < 0.002


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("lossy", [*LOSSY, *(f"few: {name}" for name in FEW)])
@pytest.mark.slow
def test_fed_dyn_ends_where_whole_messages_end(alpha, lossy):
    """Two of 20 values a round need longer to arrive at all, hence 300 rounds."""
    few = lossy.startswith("few: ")
    transform, number = (FEW[lossy[5:]], 300) if few else (LOSSY[lossy], 150)
    whole = fed_dyn_ends(alpha, number=number)
    assert whole < (0.025 if alpha < 0.1 else 0.0005)
    ends = fed_dyn_ends(alpha, transform, number=number)
    assert ends < 0.003 + 1.1 * whole
    assert alpha < 0.1 or ends < 0.01


@pytest.mark.parametrize("lossy", [top_k.build(share=0.25), clip.build(norm=0.1)])
@pytest.mark.slow
def test_fed_dyn_trains_with_a_part_of_the_clients(lossy):
    faults = Faults(Participation(participation_rate=0.5))
    assert fed_dyn_ends(1.0, lossy, number=300, faults=faults) < 0.002


def test_wrapped_fed_dyn_hears_its_clients_as_well():
    algorithm = fed_dyn.build(TRAINING, optax.sgd(1.0))
    wrapped = with_ema(report_loss(algorithm, TRAINING), 0.5)
    assert wrapped.received is algorithm.received is not None
    assert wrapped.after_sending is algorithm.after_sending


def test_fed_dyn_message_starts_from_the_nearer_model_that_both_know():
    trained, near, own = ({"w": jnp.full(3, value)} for value in (1.0, 1.5, 0.75))
    for lossy, model in ((True, own), (False, near)):
        toy.assert_same_bits(_sending.nearer(trained, near, own, jnp.bool_(lossy)), model)
    toy.assert_same_bits(_sending.nearer(trained, trained, own, jnp.bool_(True)), trained)
    algorithm = fed_dyn.build(TRAINING, optax.sgd(1.0), alpha=0.5)
    server, client = algorithm.init(near)
    # Trained from 1.5 to 1: g = 0.5 * 0.5. The message, from 0.75 on, is -0.25, and half arrives.
    client = client._replace(
        gradient={"w": jnp.full(3, 0.25)}, model=trained, lossy=jnp.bool_(True)
    )
    message, sent = {"w": jnp.full(3, -0.25)}, {"w": jnp.array([-0.25, 0, 0])}
    heard, after = algorithm.after_sending(client, message, sent)
    np.testing.assert_allclose(heard["w"], sent["w"])
    np.testing.assert_allclose(after.model["w"], [1.0, 0.75, 0.75])
    delta = algorithm.received(server, after, heard)["w"]
    np.testing.assert_allclose(delta, [0.5, 0.75, 0.75])
    np.testing.assert_allclose(after.gradient["w"], 0.5 * delta)


def test_fed_dyn_client_remembers_when_something_was_lost():
    for norm, lossy in ((1e6, False), (0.1, True)):
        state = run(process_of("fed_dyn", clip.build(norm=norm)), 2)
        assert np.asarray(state.clients.lossy).tolist() == [lossy] * 5


@pytest.mark.parametrize(
    ("alpha", "transform", "nearest"),
    [(0.1, quantize.build(bits=8), 0.001), (0.01, low_precision.build(), 0.02)],
)
def test_fed_dyn_with_a_small_alpha_trains_with_rounded_values(alpha, transform, nearest):
    """Whole messages end 0.0004 and 0.0155 away."""
    algorithm = fed_dyn.build(TRAINING, optax.sgd(1.0), alpha=alpha)
    process = Process(algorithm, chain(transform, aggregator=mean.build()))
    assert distance(run(process, 150)) < nearest


def test_chain_that_loses_several_things_trains():
    transforms = clip.build(norm=0.3), top_k.build(share=0.25), quantize.build(bits=8, sparse=True)
    assert distance(run(process_of("scaffold", *transforms), 150)) < 0.01


@pytest.mark.parametrize("options", [{}, {"participation_rate": 0.5}])
@pytest.mark.parametrize("name", ["scaffold", "fed_dyn"])
def test_what_the_server_follows_is_the_mean_of_what_the_clients_believe(name, options):
    """The papers' invariant: the server's control is the mean of the clients' own."""
    transform = random_k.build(share=0.25, error_feedback=False)
    faults = Faults(Participation(**options))
    state = run(process_of(name, transform, faults=faults), 7)
    followed = "control" if name == "scaffold" else "gradient"
    heard = np.asarray(state.clients.rounds) > 0
    assert heard.sum() > 2
    expected = np.average(
        np.asarray(getattr(state.clients, followed)["w"])[heard], axis=0, weights=SIZES[heard]
    )
    np.testing.assert_allclose(getattr(state.server, followed)["w"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["scaffold", "fed_dyn"])
def test_transform_that_loses_nothing_changes_nothing(name):
    whole = clip.build(norm=1e6)
    toy.assert_close(run(process_of(name, whole), 3)[1:3], run(process_of(name), 3)[1:3])


@pytest.mark.parametrize("name", ["scaffold", pytest.param("fed_dyn", marks=pytest.mark.slow)])
def test_every_client_map_and_a_resumed_run_do_the_same(name):
    process = process_of(name, random_k.build(share=0.5), clip.build(norm=0.5))
    ends = []
    for map_clients in (jax.vmap, client_map.sequential, client_map.sharded):
        step = functools.partial(process.round, client_map=map_clients)
        step = jax.jit(step, compiler_options=toy.SAME_BITS)
        half, _ = step(step(start(process), DATA, KEY)[0], DATA, KEY)
        ends.append(step(half, DATA, KEY)[0])
    toy.assert_close(ends[1:], [ends[0], ends[0]])
    resumed, _ = step(jax.tree.map(jnp.asarray, jax.device_get(half)), DATA, KEY)
    toy.assert_same_bits(resumed, ends[-1])


def test_client_that_does_not_count_stays_as_it_was():
    faults = Faults(Participation(straggler_rate=0.5))
    process = process_of("scaffold", top_k.build(share=0.25), faults=faults)
    state, metrics = process.round(start(process), DATA, KEY)
    counted = np.asarray(metrics["counted"])
    assert 0 < counted.sum() < 5
    moved = np.asarray(state.clients.control["w"]).any(axis=1)
    np.testing.assert_array_equal(moved, counted)


def test_memory_of_a_transform_is_not_used_by_clients_that_send_the_rest_themselves():
    state = run(process_of("fed_dyn", top_k.build(share=0.25)), 3)
    assert not np.asarray(state.aggregator[0]).any()
    state = run(process_of("scaffold", top_k.build(share=0.25)), 3)
    assert np.asarray(state.aggregator[0]).any()


def test_robust_aggregator_withstands_a_message_whose_square_overflows():
    message = {"w": jnp.full(3, 1e30)}
    assert _sending.following(message, message) == 0
    assert _sending.bounded(message, message) == 0
    process = process_of("scaffold", clip.build(norm=0.3), aggregator=median.build())
    algorithm = process.algorithm
    sent, client = algorithm.after_sending(
        algorithm.init({"w": jnp.zeros(3)})[1], (message, message), (message, message)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((sent, client)))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_factors_undo_the_scale_of_random_k(share):
    stacked = jnp.arange(1.0, 41)[None]
    transform = random_k.build(share=share, error_feedback=False)
    process = process_of("fed_dyn", transform)
    sent, _ = transform.update({"w": stacked}, all_clients(jnp.ones(1)), (), KEY)
    message, sent = {"w": stacked[0]}, {"w": sent["w"][0]}
    assert _sending.following(message, sent) == pytest.approx(share)
    chosen = np.asarray(sent["w"]) != 0
    heard = process.algorithm.after_sending(process.algorithm.init(message)[1], message, sent)[0]
    np.testing.assert_allclose(heard["w"], np.where(chosen, message["w"], 0), rtol=1e-6)
    length = optax.tree.norm(_sending.scaled(sent, _sending.bounded(message, sent)))
    assert length <= 1.001 * optax.tree.norm(message)
