"""Stacked models of client clusters: every leaf has a leading axis ``[k]``."""

import jax
import jax.numpy as jnp
import optax

from fedjax_med.client.local_training import LocalTrainer, train
from fedjax_med.core.algorithm import ClientOutput, client_output, optimizer_step
from fedjax_med.core.trees import select, take
from fedjax_med.core.types import Array, Examples, Key, Message, Params


def stack(params: Params, number: int) -> Params:
    """Stack `number` copies of one model."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * number), params)


def train_in(
    training: LocalTrainer,
    models: Params,
    group: Array,
    examples: Examples,
    round: Array,
    key: Key,
) -> ClientOutput:
    """Run FedAvg's client update in one cluster; the client's new state is the cluster's index.

    Args:
        training: settings of local training.
        models: ``[k, ...]`` in every leaf.
        group: int32 [], the client's cluster.
        examples: the client's, ``[N]``.
        round: int32 [], for the learning-rate schedule.
        key: consumed.
    """
    start = take(models, group)
    params, metrics = train(training, start, examples, key, round)
    return client_output(start, params, group, examples, metrics, group)


def occupied(results: ClientOutput, number: int) -> Array:
    """Check which clusters have a client that counts: bool [k].

    Args:
        results: the clients' outputs, ``[S, ...]``.
        number: k.
    """
    member = results.cluster[None] == jnp.arange(number)[:, None]
    return jnp.any(member & (results.num_examples > 0)[None], axis=1)


def step(
    optimizer: optax.GradientTransformation,
    models: Params,
    state: optax.OptState,
    messages: Message,
    moves: Array,
) -> tuple[Params, optax.OptState]:
    """Step each cluster's model separately, only where `moves`: momentum alone moves no cluster.

    Args:
        optimizer: the server optimizer of one model.
        models: ``[k, ...]`` in every leaf.
        state: the optimizer state of each cluster, ``[k, ...]``.
        messages: the aggregated message of each cluster, ``[k, ...]``.
        moves: bool [k], whether a cluster steps; the others keep their models and states.
    """

    def one(
        params: Params, state: optax.OptState, message: Message, moves: Array
    ) -> tuple[Params, optax.OptState]:
        after = optimizer_step(optimizer, message, state, params)
        kept: tuple[Params, optax.OptState] = select(moves, after, (params, state))
        return kept

    moved: tuple[Params, optax.OptState] = jax.vmap(one)(models, state, messages, moves)
    return moved


def inner_products(messages: Message) -> Array:
    """Compute the inner products of all pairs of messages, over all leaves: float32 [S, S].

    Args:
        messages: ``[S, ...]`` in every leaf.
    """

    def one(leaf: Array) -> Array:
        flat = leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    return jnp.sum(jnp.stack([one(leaf) for leaf in jax.tree.leaves(messages)]), axis=0)


def bipartition(similarity: Array, member: Array) -> Array:
    """Split clients in two by complete linkage: the distance is that of farthest members.

    Args:
        similarity: float [S, S], symmetric.
        member: bool [S], the clients to split; at least two.

    Returns:
        bool [S], the cluster without the first member; False for clients that are not members.
    """
    number = member.shape[0]
    apart = ~(member[:, None] & member[None]) | jnp.eye(number, dtype=bool)

    def join(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del step
        distance, label = carry
        nearest = jnp.argmin(distance)  # the pair is (row, column), with the row lower
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
