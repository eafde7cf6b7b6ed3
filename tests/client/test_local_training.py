import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.client import local_training, optimizers
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.types import Examples
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Augment

KEY = jax.random.key(3)
FIRST = jnp.int32(0)


def train(examples, *, optimizer=None, batch_size=4, epochs=1, grad_fn=None, number=FIRST, **rest):
    schedule = rest.pop("schedule", optimizers.constant)
    training = LocalTrainer(
        grad_fn or toy.grad_fn(), optimizer or optax.sgd(0.1), epochs, batch_size, schedule
    )
    return local_training.train(training, toy.params(), examples, KEY, number, **rest)


def seen(examples, *, batch_size, epochs):
    """Which labels each step saw, through a gradient function that writes them down."""
    rows = []

    def grad_fn(params, batch, key):
        row = jnp.where(batch.mask, batch.label, -1)
        jax.debug.callback(lambda row: rows.append(np.asarray(row)), row, ordered=True)
        return jax.tree.map(jnp.zeros_like, params), {}

    training = LocalTrainer(grad_fn, optax.sgd(0.0), epochs, batch_size)
    local_training.train(training, toy.params(), examples, KEY, FIRST)
    jax.effects_barrier()
    return rows


def numbered(count, room):
    data = toy.federation((count,), room=room)
    label = jnp.where(data.mask[0], jnp.arange(room), 0).astype(jnp.int32)
    return Examples(data.image[0], label, data.mask[0])


def test_every_epoch_sees_every_example_once_in_a_new_order():
    rows = seen(numbered(10, 13), batch_size=4, epochs=2)
    epochs = [np.concatenate(rows[:3]), np.concatenate(rows[3:])]
    for epoch in epochs:
        assert sorted(epoch[epoch >= 0]) == list(range(10))
        assert (epoch[10:] == -1).all()  # padding comes last; a step of padding alone is not taken
    assert not np.array_equal(*epochs)


def test_one_step_is_the_optimizer_applied_to_the_gradient():
    examples = toy.examples(6)
    params, _ = train(examples, batch_size=0)
    gradient, _ = toy.grad_fn()(toy.params(), examples, KEY)
    toy.assert_close(params, jax.tree.map(lambda p, g: p - 0.1 * g, toy.params(), gradient))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.01)])
def test_padding_changes_no_bit(optimizer):
    examples = toy.examples(6)
    expected = train(examples, optimizer=optimizer, epochs=3)
    toy.assert_same_bits(
        train(toy.pad(examples, 9), optimizer=optimizer, epochs=3),
        expected,
    )


def test_padding_changes_no_bit_under_augmentation():
    examples = toy.examples(6)
    grad_fn = toy.grad_fn(Augment())
    expected = train(examples, grad_fn=grad_fn, epochs=2)
    toy.assert_same_bits(train(toy.pad(examples, 5), grad_fn=grad_fn, epochs=2), expected)


@pytest.mark.parametrize("batch_size", [0, 8, 64])
@pytest.mark.parametrize("changes", [toy.STILL, Augment()], ids=["still", "augmented"])
def test_padding_that_makes_the_batch_longer_changes_nothing(changes, batch_size):
    examples = toy.examples(6)
    arguments = {"grad_fn": toy.grad_fn(changes), "batch_size": batch_size, "epochs": 2}
    # The sums over a batch are longer, so their last bits may differ.
    toy.assert_close(train(toy.pad(examples, 5), **arguments), train(examples, **arguments))


def test_a_batch_of_padding_alone_costs_no_gradient():
    rows = seen(numbered(5, 16), batch_size=4, epochs=2)
    assert len(rows) == 4  # of eight steps


def test_a_client_without_examples_stays_where_it_is():
    examples = toy.examples(5, mask=np.zeros(5, bool))
    params, metrics = train(examples, optimizer=optax.adamw(0.1))
    toy.assert_same_bits(params, toy.params())
    assert metrics["steps"] == 0
    assert metrics["count"] == 0


def test_batch_larger_than_the_client_is_all_of_it():
    examples = toy.examples(6)
    toy.assert_same_bits(train(examples, batch_size=1000), train(examples, batch_size=0))
    assert [len(row) for row in seen(numbered(6, 6), batch_size=1000, epochs=1)] == [6]


def test_gradient_offset_is_added_to_every_gradient():
    examples = toy.examples(8)
    offset = jax.tree.map(jnp.ones_like, toy.params())
    grad_fn = lambda params, batch, key: (  # noqa: E731
        jax.tree.map(jnp.zeros_like, params),
        {"count": jnp.sum(batch.mask)},
    )
    params, _ = train(examples, grad_fn=grad_fn, gradient_offset=offset)
    toy.assert_close(params, jax.tree.map(lambda p: p - 2 * 0.1, toy.params()))  # two steps


def test_schedule_scales_the_updates_by_round():
    examples = toy.examples(4)
    full, _ = train(examples)
    half, _ = train(examples, schedule=lambda number: 1 / (1.0 + number), number=jnp.int32(1))
    toy.assert_close(
        jax.tree.map(lambda new, old: new - old, half, toy.params()),
        jax.tree.map(lambda new, old: (new - old) / 2, full, toy.params()),
    )


def test_cosine_schedule_with_warmup():
    factor = optimizers.schedule("cosine", rounds=12, warmup_rounds=2)
    values = [float(factor(jnp.int32(number))) for number in range(13)]
    assert values[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert values[7] == pytest.approx(0.5)
    assert values[12] == pytest.approx(0.0, abs=1e-6)
    assert float(optimizers.schedule("constant", 5, 0)(jnp.int32(4))) == 1.0


@pytest.mark.parametrize(("name", "warmup"), [("cosin", 0), ("cosine", 5), ("cosine", -1)])
def test_impossible_schedules_are_refused(name, warmup):
    with pytest.raises(UserError):
        optimizers.schedule(name, 5, warmup)


def test_backbone_takes_smaller_steps_than_the_head():
    examples, optimizer = toy.examples(4), optax.adamw(0.1, weight_decay=0.3)
    plain, _ = train(examples, optimizer=optimizer)
    slower, _ = train(examples, optimizer=optimizers.discriminative_rates(optimizer, 0.25, "b"))
    before = toy.params()
    np.testing.assert_array_equal(slower["b"], plain["b"])
    expected = before["w"] + 0.25 * (plain["w"] - before["w"])
    np.testing.assert_allclose(slower["w"], expected, rtol=1e-4, atol=1e-6)
    frozen, _ = train(examples, optimizer=optimizers.discriminative_rates(optimizer, 0.0, "b"))
    np.testing.assert_array_equal(frozen["w"], before["w"])
    assert optimizers.discriminative_rates(optimizer, 1.0, "b") is optimizer
