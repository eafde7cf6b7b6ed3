"""What goes wrong among clients: they miss rounds, come late, send garbage, or are hostile.

Draws of what a client does are made from its own key, so that they depend neither on the strategy
nor on who else takes part; hostile clients, who are in league, share one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Examples, Key, Message


class Attack(NamedTuple):
    """What hostile clients do, to test the defences.

    clients: who is hostile.
    examples: ``(examples [N] of one client, key) -> examples``, what it trains on; None: as is.
    messages: ``(messages [S, ...], hostile bool [S], weight [S], key) -> messages``: what it sends;
        those of others must stay as they are. None: as is.
    trigger: ``images [..., H, W, ch] -> images`` with a backdoor's trigger, for its evaluation.
    target: the class that a triggered image shall be taken for.
    """

    clients: tuple[int, ...]
    examples: Callable[[Examples, Key], Examples] | None = None
    messages: Callable[[Message, Array, Array, Key], Message] | None = None
    trigger: Callable[[Array], Array] | None = None
    target: int = 0


class Turnout(NamedTuple):
    """Who takes part in a round, of those that are asked, and what counts of what they send."""

    rate: float = 1.0  # the probability that a client takes part, each by itself
    late: float = 0.0  # the probability that a message comes too late to count
    garbage: float = 0.0  # the probability that a message is NaN
    skip_bad: bool = False  # whether messages that are no numbers are left out, or end the run
    largest: float = 0.0  # l2 norm above which a message is absurd, and left out; 0: none is


class Conditions(NamedTuple):
    """All that is not as it should be."""

    turnout: Turnout = Turnout()
    attacks: tuple[Attack, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether everyone takes part and is honest."""
        return self == Conditions()


_PRESENT, _LATE, _GARBAGE, _ATTACK = 101, 102, 103, 104  # a client's key is split into 0 and 1


def _draw(probability: float, keys: Key, what: int) -> Array:
    """bool, in the shape of `keys`."""

    def draw(key: Key) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, what), probability)

    draws: Array = jax.vmap(draw)(jnp.reshape(keys, (-1,)))
    return draws


def present(turnout: Turnout, key: Key) -> Array:
    """Whether the client with the round's `key` takes part: bool []."""
    return _draw(turnout.rate, key, _PRESENT)[0]


def is_hostile(attack: Attack, client: Array) -> Array:
    """bool, in the shape of `client`, its id."""
    clients = jnp.asarray(attack.clients, jnp.int32).reshape(*(1,) * client.ndim, -1)
    return jnp.any(client[..., None] == clients, axis=-1)


def instead(hostile: Array, new: Message, messages: Message) -> Message:
    """`messages` [S, ...] with those of `new` where `hostile` [S], in the same types."""

    def choose(new: Array, leaf: Array) -> Array:
        return jnp.where(rows(hostile, leaf), new.astype(leaf.dtype), leaf)

    return jax.tree.map(choose, new, messages)


def poisoned(conditions: Conditions, examples: Examples, client: Array, key: Key) -> Examples:
    """What the client trains on.

    Args:
        conditions: what goes wrong.
        examples: of one client, [N].
        client: int32 [], its id.
        key: of the client in this round.
    """
    for number, attack in enumerate(conditions.attacks):
        if attack.examples is not None:
            attack_key = jax.random.fold_in(jax.random.fold_in(key, _ATTACK), number)
            changed = attack.examples(examples, attack_key)
            hostile = is_hostile(attack, client)
            examples = jax.tree.map(
                lambda new, old, hostile=hostile: jnp.where(hostile, new, old), changed, examples
            )
    return examples


def sent(
    conditions: Conditions, messages: Message, weight: Array, clients: Array, keys: Key, key: Key
) -> tuple[Message, Array]:
    """What arrives at the server, and whether it came in time.

    Args:
        conditions: what goes wrong.
        messages: what honest clients would send, [S, ...].
        weight: [S], 0 where the client does not take part.
        clients: int32 [S], their ids.
        keys: [S], each client's in this round.
        key: for what hostile clients agree on.

    Returns:
        The messages and bool [S].
    """
    for number, attack in enumerate(conditions.attacks):
        if attack.messages is not None:
            attack_key = jax.random.fold_in(key, number)
            messages = attack.messages(messages, is_hostile(attack, clients), weight, attack_key)
    turnout = conditions.turnout
    if turnout.garbage:
        bad = _draw(turnout.garbage, keys, _GARBAGE)
        garbage = jax.tree.map(
            lambda leaf: leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf,
            messages,
        )
        messages = instead(bad, garbage, messages)
    return messages, ~_draw(turnout.late, keys, _LATE)


def is_bearable(turnout: Turnout, message: Message) -> Array:
    """Whether the norm of one client's message is not absurd: bool []."""
    # What is no number is not absurd by its norm: whether it ends the run is for `skip_bad`.
    norm: Array = optax.tree.norm(message)
    return ~(norm > turnout.largest) if turnout.largest else jnp.bool_(True)


def is_finite(tree: Any) -> Array:
    """Whether all floating-point numbers in `tree` are neither NaN nor infinite: bool []."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)


def counted(conditions: Conditions, results: Any, before: Any, keys: Key, key: Key) -> Any:
    """`results` of the clients whose messages arrive and are bearable; of others, nothing.

    Who does not count keeps the state that it had: what its server knows nothing of has not been.

    Args:
        conditions: what goes wrong.
        results: a `fedjax_med.core.round.ClientResult` of S clients, [S, ...] in every leaf.
        before: the states that they had.
        keys: [S], each client's in this round.
        key: for what hostile clients agree on.
    """
    messages, timely = sent(
        conditions, results.message, results.weight, results.metrics["client"], keys, key
    )
    finite = jax.vmap(is_finite)(messages)
    bearable = jax.vmap(functools.partial(is_bearable, conditions.turnout))(messages)
    count = timely & bearable & (results.weight > 0)
    metrics = results.metrics
    if conditions.turnout.skip_bad:
        # Not the metrics, whose sums are no part of what is clipped: one example's infinite loss
        # must not decide whether a client counts.
        count &= jax.vmap(is_finite)((results.state, messages))
        metrics = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), metrics)

    def keep(new: Array, old: Array | int) -> Array:
        return jnp.where(rows(count, new), new, old)

    told = {"client": metrics["client"], "finite": finite | ~count, "counted": count}
    told["present"] = results.weight > 0
    return results._replace(
        message=jax.tree.map(lambda leaf: keep(leaf, 0), messages),
        state=jax.tree.map(keep, results.state, before),
        weight=keep(results.weight, 0),
        metrics={**jax.tree.map(lambda leaf: keep(leaf, 0), metrics), **told},
    )


def absent(result: Any, client: Any) -> Any:
    """The result of a client that does not take part, of the shapes of `result`."""
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result)
    finite = jnp.ones_like(nothing.metrics["finite"])
    return nothing._replace(state=client, metrics={**nothing.metrics, "finite": finite})
