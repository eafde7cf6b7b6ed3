"""Models for clusters of clients, stacked: every leaf has a leading axis ``[k]``."""

import jax
import jax.numpy as jnp
import optax

from fedjax_med.client.local_training import LocalTraining, train
from fedjax_med.core.round import ClientResult
from fedjax_med.core.types import Array, Examples, Key, Message, Params


def stack(params: Params, number: int) -> Params:
    """`number` copies of one model."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * number), params)


def pick(models: Params, group: Array) -> Params:
    """The model of `group`, or the models of several.

    Args:
        models: ``[k, ...]`` in every leaf.
        group: int32 [] or [g].
    """
    return jax.tree.map(lambda leaf: leaf[group], models)


def train_in(
    training: LocalTraining,
    models: Params,
    group: Array,
    examples: Examples,
    round: Array,
    key: Key,
) -> ClientResult:
    """FedAvg's client in one of the clusters; what stays at the client is the cluster's number.

    Args:
        training: how a client trains.
        models: ``[k, ...]`` in every leaf.
        group: int32 [], the client's cluster.
        examples: the client's, ``[N]``.
        round: int32 [], for the schedule.
        key: consumed.
    """
    start = pick(models, group)
    params, metrics = train(training, start, examples, key, round)
    delta = jax.tree.map(jnp.subtract, start, params)
    weight = jnp.sum(examples.mask, dtype=jnp.float32)
    return ClientResult(delta, group, weight, metrics, group)


def occupied(results: ClientResult, number: int) -> Array:
    """Which of the clusters have a client that counts: bool [k].

    Args:
        results: of the clients, ``[S, ...]``.
        number: k.
    """
    member = results.group[None] == jnp.arange(number)[:, None]
    return jnp.any(member & (results.weight > 0)[None], axis=1)


def step(
    optimizer: optax.GradientTransformation,
    models: Params,
    state: optax.OptState,
    messages: Message,
    moves: Array,
) -> tuple[Params, optax.OptState]:
    """Each cluster's server step by itself; momentum does not move a cluster that stands still.

    Args:
        optimizer: the server's, of one model.
        models: ``[k, ...]`` in every leaf.
        state: what the optimizer remembers of each, ``[k, ...]``.
        messages: the reduced message of each, ``[k, ...]``.
        moves: bool [k]; the others keep their models and states.
    """

    def one(
        params: Params, state: optax.OptState, message: Message, moves: Array
    ) -> tuple[Params, optax.OptState]:
        updates, new = optimizer.update(message, state, params)
        after = optax.apply_updates(params, updates), new
        kept: tuple[Params, optax.OptState] = jax.tree.map(
            lambda new, old: jnp.where(moves, new, old), after, (params, state)
        )
        return kept

    moved: tuple[Params, optax.OptState] = jax.vmap(one)(models, state, messages, moves)
    return moved


def inner_products(messages: Message) -> Array:
    """Of each pair of messages, over all leaves: float32 [S, S].

    Args:
        messages: ``[S, ...]`` in every leaf.
    """

    def one(leaf: Array) -> Array:
        flat = leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    return jnp.sum(jnp.stack([one(leaf) for leaf in jax.tree.leaves(messages)]), axis=0)


def bipartition(similarity: Array, member: Array) -> Array:
    """Two clusters by complete linkage: how far clusters are apart, their farthest members are.

    Args:
        similarity: float [S, S], symmetric.
        member: bool [S], who is to be divided; at least two.

    Returns:
        bool [S], the cluster without the first member; False for those that are no members.
    """
    number = member.shape[0]
    apart = ~(member[:, None] & member[None]) | jnp.eye(number, dtype=bool)

    def join(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del step
        distance, label = carry
        nearest = jnp.argmin(distance)  # the first of the pair is the row, and lower
        first, second = nearest // number, nearest % number
        row = jnp.maximum(distance[first], distance[second])
        row = row.at[first].set(jnp.inf).at[second].set(jnp.inf)
        distance = distance.at[first].set(row).at[:, first].set(row)
        distance = distance.at[second].set(jnp.inf).at[:, second].set(jnp.inf)
        return distance, jnp.where(label == second, first, label)

    joins = jnp.sum(member) - 2
    start = jnp.where(apart, jnp.inf, -similarity), jnp.arange(number)
    label: Array = jax.lax.fori_loop(0, joins, join, start)[1]
    return member & (label != label[jnp.argmax(member)])
