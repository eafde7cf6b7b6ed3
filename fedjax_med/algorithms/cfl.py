"""Clustered federated learning (Sattler, Müller, Samek, IEEE TNNLS 2021).

"Clustered Federated Learning: Model-Agnostic Distributed Multitask Optimization Under Privacy
Constraints": all clients begin in one cluster. If the mean of a cluster's updates is small while
single updates are still large, its clients disagree, and it is split by the updates' directions.

Both halves start from the parent's model after this round's step. The authors' code averages the
halves separately in that round already; the step is small in any case (`mean_norm`). As in that
code, only the norms decide; the similarity of the halves (gamma_max of the paper) is not checked.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _clusters
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, Traits
from fedjax_med.core.trees import take
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError

_FEWEST = 3  # clients in a cluster that may be split, as in the authors' code


class ServerState(NamedTuple):
    """The models of the clusters, and where each cluster came from.

    Slots that no cluster uses yet follow the first cluster.
    """

    params: Params  # [k, ...] in every leaf
    optimizer: optax.OptState  # [k, ...] in every leaf
    moves: Array  # bool [k], whether the cluster has a client that counts in this round
    origin: Array  # int32 [k], the cluster that it was part of before this round's splits
    number: Array  # int32 [], the number of clusters so far
    round: Array  # int32 [], the number of completed rounds


class _Rule(NamedTuple):
    """Thresholds for splitting a cluster."""

    mean_norm: float
    max_norm: float
    after: int


def _rule(clusters: int, mean_norm: float, max_norm: float, after: int) -> _Rule:
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
    return _Rule(mean_norm, max_norm, after)


def _divided(
    rule: _Rule, clusters: int, server: ServerState, results: ClientOutput
) -> tuple[Array, Array, Array]:
    """Split clusters; return the clients' clusters int32 [S], and the new `origin` and `number`."""
    inner = _clusters.inner_products(results.update)
    norms = jnp.sqrt(jnp.diagonal(inner))
    cosine = inner / jnp.maximum(norms[:, None] * norms[None], 1e-12)
    places = jnp.arange(clusters, dtype=jnp.int32)

    def divide(group: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        groups, origin, number = carry
        weight = jnp.where(results.cluster == group, results.num_examples, 0)
        member = weight > 0
        share = weight / jnp.maximum(jnp.sum(weight), 1e-12)
        still = jnp.sqrt(jnp.maximum(share @ inner @ share, 0)) < rule.mean_norm
        pulled = jnp.max(jnp.where(member, norms, 0)) > rule.max_norm
        allowed = (number < clusters) & (server.round >= rule.after)
        ready = still & pulled & allowed & (jnp.sum(member) >= _FEWEST)
        half = jax.lax.cond(
            ready, lambda: _clusters.bipartition(cosine, member), lambda: jnp.zeros_like(member)
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
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    clusters: int = 3,
    mean_norm: float = 0.4,
    max_norm: float = 1.6,
    after: int = 0,
) -> FederatedAlgorithm:
    """Build CFL: clusters of three or more clients are split, by complete linkage of the cosines.

    The half with more examples keeps the cluster's index, and the clients that do not participate
    in this round. The server sees the clients' messages as they are sent, before all transforms.

    Args:
        training: settings of local training.
        server_optimizer: steps against the aggregated message of each cluster separately.
        clusters: k, the maximum number of clusters; 1 is FedAvg.
        mean_norm: eps1 of the paper, in the units of the message: a cluster may be split if the l2
            norm of its mean message is below it.
        max_norm: eps2 of the paper: and if the largest l2 norm of its messages is above it.
        after: rounds before the first split (20 in the authors' code).

    Raises:
        UserError: an option is out of range.
    """
    rule = _rule(clusters, mean_norm, max_norm, after)

    def init(params: Params) -> tuple[ServerState, Array]:
        models = _clusters.stack(params, clusters)
        memory = jax.vmap(server_optimizer.init)(models)
        places = jnp.arange(clusters, dtype=jnp.int32)
        moves = jnp.zeros(clusters, bool)
        state = ServerState(models, memory, moves, places, jnp.int32(1), jnp.int32(0))
        return state, jnp.int32(0)

    def client_update(
        server: ServerState, client: Array, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        return _clusters.train_in(training, server.params, client, examples, round, key)

    def process_updates(server: ServerState, results: ClientOutput) -> tuple[ServerState, Array]:
        moves = _clusters.occupied(results, clusters)
        groups, origin, number = _divided(rule, clusters, server, results)
        return server._replace(moves=moves, origin=origin, number=number), groups

    def server_update(server: ServerState, message: Message) -> ServerState:
        before = (server.params, server.optimizer, message, server.moves)
        params, memory = _clusters.step(server_optimizer, *take(before, server.origin))
        return server._replace(params=params, optimizer=memory, round=server.round + 1)

    def personal_params(server: ServerState, client: Array) -> Params:
        return take(server.params, client)

    return FederatedAlgorithm(
        init,
        client_update,
        server_update,
        personal_params,
        clusters,
        process_updates,
        download=personal_params,
        traits=Traits(supports_ema=False),
    )
