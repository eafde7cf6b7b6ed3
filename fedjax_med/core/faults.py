"""Client faults: dropout, stragglers, corrupted updates and Byzantine attacks.

A client's faults are drawn from its own key, so that they depend neither on the client map nor on
the other participants; Byzantine clients, which collude, share one key.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.random import Stream
from fedjax_med.core.trees import broadcast_rows, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, Key, Message


class Attack(NamedTuple):
    """An attack by Byzantine clients, to test the defences.

    Attributes:
        clients: ids of the Byzantine clients.
        examples: ``(examples [N] of one client, key) -> examples``, poisons its training examples;
            None: unchanged.
        messages: ``(messages [S, ...], hostile bool [S], weight [S], key) -> messages``: replaces
            the messages of hostile clients; all others must stay unchanged. None: unchanged.
        trigger: ``images [..., H, W, ch] -> images`` with a backdoor's trigger, for its evaluation.
        target: the class that the model should predict for a triggered image.
    """

    clients: tuple[int, ...]
    examples: Callable[[Examples, Key], Examples] | None = None
    messages: Callable[[Message, Array, Array, Key], Message] | None = None
    trigger: Callable[[Array], Array] | None = None
    target: int = 0


class Participation(NamedTuple):
    """Participation of the cohort's clients in a round, and the rules for which updates count.

    Attributes:
        participation_rate: the probability that a client participates, independently of the others.
        straggler_rate: the probability that an update arrives too late to count.
        corruption_rate: the probability that an update is NaN.
        skip_invalid: whether updates that are not finite are skipped; otherwise they end the run.
            A robust aggregator implies it (`fedjax_med.core.process.Process.effective_faults`).
        max_update_norm: updates with a larger l2 norm are rejected; 0: no limit.
    """

    participation_rate: float = 1.0
    straggler_rate: float = 0.0
    corruption_rate: float = 0.0
    skip_invalid: bool = False
    max_update_norm: float = 0.0


class Faults(NamedTuple):
    """The faults and attacks of a run."""

    participation: Participation = Participation()
    attacks: tuple[Attack, ...] = ()

    @property
    def none(self) -> bool:
        """Tell whether there are no faults: every client participates and is honest."""
        return self == Faults()


def _draw(probability: float, keys: Key, stream: Stream) -> Array:
    """Draw a bool for each of `keys`, true with `probability`: bool [S]; [1] for a single key."""

    def draw(key: Key) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, stream), probability)

    draws: Array = jax.vmap(draw)(jnp.reshape(keys, (-1,)))
    return draws


def participates(participation: Participation, key: Key) -> Array:
    """Draw whether a client participates, from its `key` in the round: bool []."""
    return _draw(participation.participation_rate, key, Stream.PRESENT)[0]


def is_hostile(attack: Attack, client: Array) -> Array:
    """Tell whether `client`, an id or array of ids, is hostile: bool in the shape of `client`."""
    clients = jnp.asarray(attack.clients, jnp.int32).reshape(*(1,) * client.ndim, -1)
    return jnp.any(client[..., None] == clients, axis=-1)


def replace_where(hostile: Array, new: Message, messages: Message) -> Message:
    """Replace `messages` [S, ...] by `new` where `hostile` [S]; the dtypes stay."""

    def choose(new: Array, leaf: Array) -> Array:
        return jnp.where(broadcast_rows(hostile, leaf), new.astype(leaf.dtype), leaf)

    return jax.tree.map(choose, new, messages)


def poison_data(faults: Faults, examples: Examples, client: Array, key: Key) -> Examples:
    """Give the examples that a client trains on, poisoned if it is hostile.

    Args:
        faults: the faults and attacks.
        examples: the client's, [N].
        client: int32 [], the client's id.
        key: the client's key in this round.
    """
    for number, attack in enumerate(faults.attacks):
        if attack.examples is not None:
            attack_key = jax.random.fold_in(jax.random.fold_in(key, Stream.ATTACK), number)
            changed = attack.examples(examples, attack_key)
            hostile = is_hostile(attack, client)
            examples = jax.tree.map(
                lambda new, old, hostile=hostile: jnp.where(hostile, new, old), changed, examples
            )
    return examples


def sent(
    faults: Faults, messages: Message, weight: Array, clients: Array, keys: Key, key: Key
) -> tuple[Message, Array]:
    """Give the messages that the server receives, and whether each arrives in time.

    Args:
        faults: the faults and attacks.
        messages: the messages as honest clients would send them, [S, ...].
        weight: [S], 0 where the client does not participate.
        clients: int32 [S], the clients' ids.
        keys: [S], each client's key in this round.
        key: the key that hostile clients share.

    Returns:
        The messages [S, ...], and bool [S], whether each is in time.
    """
    for number, attack in enumerate(faults.attacks):
        if attack.messages is not None:
            attack_key = jax.random.fold_in(key, number)
            messages = attack.messages(messages, is_hostile(attack, clients), weight, attack_key)
    participation = faults.participation
    if participation.corruption_rate:
        bad = _draw(participation.corruption_rate, keys, Stream.CORRUPTED)
        corrupted = jax.tree.map(
            lambda leaf: leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf,
            messages,
        )
        messages = replace_where(bad, corrupted, messages)
    return messages, ~_draw(participation.straggler_rate, keys, Stream.STRAGGLER)


def within_norm(participation: Participation, message: Message) -> Array:
    """Check that the l2 norm of one client's message is within `max_update_norm`: bool []."""
    # Written so that NaN passes: `skip_invalid` decides whether a NaN ends the run.
    norm: Array = optax.tree.norm(message)
    return (
        ~(norm > participation.max_update_norm)
        if participation.max_update_norm
        else jnp.bool_(True)
    )


def is_finite(tree: Any) -> Array:
    """Check that no floating-point number in `tree` is NaN or infinite: bool []."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)


def accept_updates(faults: Faults, results: Any, before: Any, keys: Key, key: Key) -> Any:
    """Keep the results of clients whose messages are timely and acceptable; zero the others.

    A client that does not count keeps its previous state, as if its round had not happened.

    Args:
        faults: the faults and attacks.
        results: a `fedjax_med.core.algorithm.ClientOutput` of S clients, [S, ...] in every leaf.
        before: the clients' states before the round.
        keys: [S], each client's key in this round.
        key: the key that hostile clients share.
    """
    messages, timely = sent(
        faults, results.update, results.num_examples, results.metrics["client"], keys, key
    )
    finite = jax.vmap(is_finite)(messages)
    acceptable = jax.vmap(functools.partial(within_norm, faults.participation))(messages)
    count = timely & acceptable & (results.num_examples > 0)
    metrics = results.metrics
    if faults.participation.skip_invalid:
        # Metrics are not checked: their sums are not clipped, and one example's infinite loss must
        # not decide whether a client counts.
        count &= jax.vmap(is_finite)((results.state, messages))
        metrics = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), metrics)

    def keep(new: Array, old: Array | int) -> Array:
        return jnp.where(broadcast_rows(count, new), new, old)

    flags = {"client": metrics["client"], "finite": finite | ~count, "counted": count}
    flags["present"] = results.num_examples > 0
    return results._replace(
        update=jax.tree.map(lambda leaf: keep(leaf, 0), messages),
        state=jax.tree.map(keep, results.state, before),
        num_examples=keep(results.num_examples, 0),
        metrics={**jax.tree.map(lambda leaf: keep(leaf, 0), metrics), **flags},
    )


def no_update(result: Any, client: Any) -> Any:
    """Build the zero result of a client that does not participate, in the shapes of `result`."""
    nothing = zeros_like_shapes(result)
    finite = jnp.ones_like(nothing.metrics["finite"])
    return nothing._replace(state=client, metrics={**nothing.metrics, "finite": finite})
