"""A process: its state and its round as pure functions."""

import jax
import jax.numpy as jnp
import optax
import toy

import fedjax_med as fm
from fedjax_med.core.round import choose

KEY = jax.random.key(1)


def test_a_round_goes_into_jit_and_vmap_over_seeds():
    data = toy.federation((5, 7, 3))
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    process = fm.Process(
        fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0)), fm.aggregators.mean.build()
    )

    def run(seed):
        params = toy.model().init(jax.random.key(seed), toy.IMAGE)
        step = lambda state, _: process.round(state, data, KEY)  # noqa: E731
        return jax.lax.scan(step, process.init(params, data), length=3)[0].server.params

    together = jax.jit(jax.vmap(run))(jnp.arange(2))
    for seed in (0, 1):
        alone = jax.jit(run)(seed)
        toy.assert_close(jax.tree.map(lambda leaf, s=seed: leaf[s], together), alone)


def test_a_process_takes_its_cohort_from_the_examples_of_all():
    data, sizes = toy.federation((5, 7, 3, 4)), jnp.array([5, 7, 3, 4])
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    cohort = fm.cohorts.uniform.build(4, size=2)
    process = fm.Process(algorithm, fm.aggregators.mean.build(), cohort)
    state = process.init(toy.params(), data)
    there = choose(cohort, KEY, state.round, sizes)
    some = jax.tree.map(lambda leaf: leaf[there], data)
    expected, told = process.round(state, fm.RoundBatch(some, (there,)), KEY)
    found, metrics = process.round(state, data, KEY)
    assert metrics["client"].tolist() == told["client"].tolist() == there.tolist()
    toy.assert_close(found, expected)


def test_the_state_has_a_row_for_every_client_and_the_aggregator_learns_how_many_send():
    told = []

    def init(message, num_clients, num_senders):
        told.append((num_clients, num_senders))
        return ()

    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    counting = fm.aggregators.mean.build()._replace(init=init)
    clip = fm.transforms.clip.build(norm=1.0)
    process = fm.Process(
        fm.algorithms.scaffold.build(trainer, optax.sgd(1.0)),
        fm.chain(clip, aggregator=counting),
        fm.cohorts.uniform.build(4, size=3),
    )
    state = jax.eval_shape(process.init, toy.params(), toy.federation((5, 7, 3, 4)))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state.clients)} == {4}
    assert told == [(4, 3)]
    assert process.transforms == (clip,)
    assert process._replace(aggregator=counting).transforms == ()


def test_kept_updates_are_the_messages_before_all_transforms():
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    parts = fm.chain(fm.transforms.clip.build(norm=1e-3), aggregator=fm.aggregators.mean.build())
    process = fm.Process(fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0)), parts)
    data = toy.federation((5, 7, 3))
    state = process.init(toy.params(), data)
    _, metrics = process._replace(keep_updates=True).round(state, data, KEY)
    assert float(optax.tree.norm(metrics["message"])) > 0.01
    assert metrics["group"].tolist() == [0, 0, 0]
    assert "message" not in jax.eval_shape(process.round, state, data, KEY)[1]
