"""Clustered federated learning (Sattler, Müller, Samek, IEEE TNNLS 2021).

"Clustered Federated Learning: Model-Agnostic Distributed Multitask Optimization Under Privacy
Constraints": all begin in one cluster. Where its model stands still although single clients still
pull hard, they pull in different directions, and the cluster is divided by the directions.

Both halves start from the parent's model after this round's step. The authors' code averages the
halves by themselves in that round already; the step is one that hardly moves (`mean_norm`). As in
that code, how unlike the halves are is not asked for beside the norms (gamma_max of the paper).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _clusters as stacked
from fedjax_med.client.local_training import LocalTraining
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError

_FEWEST = 3  # clients in a cluster that is divided, as in the authors' code


class ServerState(NamedTuple):
    """The models of the clusters, and how the clusters came about.

    Places that no cluster has yet follow the first one.
    """

    params: Params  # [k, ...] in every leaf
    optimizer: optax.OptState  # [k, ...] in every leaf
    moves: Array  # bool [k], whether it has a client that counts in this round
    origin: Array  # int32 [k], the cluster that it was in this round
    number: Array  # int32 [], the clusters so far
    round: Array  # int32 [], the rounds that are done


class _Rule(NamedTuple):
    """When a cluster is divided."""

    mean_norm: float
    max_norm: float
    after: int


def _divided(
    rule: _Rule, clusters: int, server: ServerState, results: ClientResult
) -> tuple[Array, Array, Array]:
    """The clients' clusters int32 [S], and the fields `origin` and `number` of the next state."""
    inner = stacked.inner_products(results.message)
    norms = jnp.sqrt(jnp.diagonal(inner))
    cosine = inner / jnp.maximum(norms[:, None] * norms[None], 1e-12)
    places = jnp.arange(clusters, dtype=jnp.int32)

    def divide(group: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        groups, origin, number = carry
        weight = jnp.where(results.group == group, results.weight, 0)
        member = weight > 0
        share = weight / jnp.maximum(jnp.sum(weight), 1e-12)
        still = jnp.sqrt(jnp.maximum(share @ inner @ share, 0)) < rule.mean_norm
        pulled = jnp.max(jnp.where(member, norms, 0)) > rule.max_norm
        allowed = (number < clusters) & (server.round >= rule.after)
        ready = still & pulled & allowed & (jnp.sum(member) >= _FEWEST)
        half = jax.lax.cond(
            ready, lambda: stacked.bipartition(cosine, member), lambda: jnp.zeros_like(member)
        )
        less = jnp.sum(weight, where=half) <= jnp.sum(weight, where=~half)
        leaves = ready & jnp.where(less, half, member & ~half)
        born = ready & (places == number)
        return (
            jnp.where(leaves, number, groups),
            jnp.where(born, group, origin),
            number + ready.astype(jnp.int32),
        )

    origin = jnp.where(places < server.number, places, 0)
    start = results.state, origin, server.number
    divided: tuple[Array, Array, Array] = jax.lax.fori_loop(0, clusters, divide, start)
    return divided


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    clusters: int = 3,
    mean_norm: float = 0.4,
    max_norm: float = 1.6,
    after: int = 0,
) -> FedAlgorithm:
    """A cluster of three or more clients is divided in two, by complete linkage of the cosines.

    The half with more examples keeps the cluster's place, and with it clients that do not take part
    in this round. The server sees the clients' messages as they are sent, before all transforms.

    Args:
        training: how a client trains.
        server_optimizer: steps against the reduced message of each cluster, by itself.
        clusters: k, the most that there will be; 1 is FedAvg.
        mean_norm: eps1 of the paper: the l2 norm of the mean message below which a cluster's model
            counts as standing still, in the units of the message.
        max_norm: eps2 of the paper: the l2 norm of the largest message above which its clients
            count as pulling.
        after: rounds before the first division (20 in the authors' code).

    Raises:
        UserError: an option is out of its range.
    """
    if clusters < 1 or after < 0:
        raise UserError(
            "expected algorithm cfl to have clusters >= 1 and after >= 0, got "
            f"clusters={clusters} and after={after}."
        )
    if not (mean_norm > 0 and max_norm > 0):
        raise UserError(
            "expected algorithm cfl to have mean_norm > 0 and max_norm > 0, got "
            f"mean_norm={mean_norm} and max_norm={max_norm}."
        )
    rule = _Rule(mean_norm, max_norm, after)

    def init(params: Params) -> tuple[ServerState, Array]:
        models = stacked.stack(params, clusters)
        memory = jax.vmap(server_optimizer.init)(models)
        places = jnp.arange(clusters, dtype=jnp.int32)
        moves = jnp.zeros(clusters, bool)
        state = ServerState(models, memory, moves, places, jnp.int32(1), jnp.int32(0))
        return state, jnp.int32(0)

    def client_update(
        server: ServerState, client: Array, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        return stacked.train_in(training, server.params, client, examples, round, key)

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, Array]:
        moves = stacked.occupied(results, clusters)
        groups, origin, number = _divided(rule, clusters, server, results)
        return server._replace(moves=moves, origin=origin, number=number), groups

    def server_update(server: ServerState, message: Message) -> ServerState:
        before = (server.params, server.optimizer, message, server.moves)
        params, memory = stacked.step(server_optimizer, *stacked.pick(before, server.origin))
        return server._replace(params=params, optimizer=memory, round=server.round + 1)

    def personal(server: ServerState, client: Array) -> Params:
        return stacked.pick(server.params, client)

    return FedAlgorithm(
        init, client_update, server_update, personal, clusters, receive, download=personal
    )
