"""IFCA (Ghosh et al., NeurIPS 2020, "An Efficient Framework for Clustered Federated Learning").

The same as HypCluster (Mansour et al., 2020, "Three Approaches for Personalization with
Applications to Federated Learning"): each client receives all of several models and trains the one
with the least loss on its examples. Each model is averaged over the clients that chose it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _clusters
from fedjax_med.client.local_training import LocalTrainer, mean_loss
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm
from fedjax_med.core.random import Stream
from fedjax_med.core.trees import take
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError


class ServerState(NamedTuple):
    """The models, their server optimizers' states, and which models have updates."""

    params: Params  # [k, ...] in every leaf
    optimizer: optax.OptState  # [k, ...] in every leaf
    chosen: Array  # bool [k], whether a client that counts trained it in the last round


def _spread(params: Params, key: Key, spread: float) -> Params:
    """Add noise to `params`, in proportion to the standard deviation of each leaf."""
    leaves, structure = jax.tree.flatten(params)

    def noisy(leaf: Array, key: Key) -> Array:
        deviation = jnp.std(leaf)
        if leaf.ndim > 1:  # kernels that start at zero must differ between the models, too
            inputs = math.prod(leaf.shape[:-1])
            deviation = jnp.where(deviation > 0, deviation, 1 / math.sqrt(inputs))
        return leaf + spread * deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(noisy, leaves, keys))


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    clusters: int = 2,
    spread: float = 0.1,
    seed: int = 0,
) -> FederatedAlgorithm:
    """Build IFCA: each client trains the best of k models; a model that no client chose is kept.

    A client is evaluated with the model that it chose last; before its first choice, with model 0.

    Args:
        training: settings of local training; its loss decides which model is best.
        server_optimizer: steps against the aggregated message of each cluster separately.
        clusters: k, the number of models; 1 is FedAvg.
        spread: how far apart the initial models are; without it all clients would choose the same
            one. Model 0 is the given one; the others have Gaussian noise added, of `spread` times
            the standard deviation of each leaf's values. So biases and scales, which start
            constant, get no noise; a kernel that starts at zero gets noise of `spread` / sqrt(its
            inputs). About 1 for models from scratch, less for pretrained ones.
        seed: the seed of the noise.

    Raises:
        UserError: an option is out of range.
    """
    if clusters < 1:
        raise UserError(f"expected algorithm ifca to have clusters >= 1, got clusters={clusters}.")
    if not 0 <= spread < math.inf:
        raise UserError(f"expected algorithm ifca to have spread >= 0, got spread={spread}.")

    def init(params: Params) -> tuple[ServerState, Array]:
        # A stream of its own: the experiment's keys come from a seed in the same way.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), Stream.MODELS), clusters)
        models = [params, *(_spread(params, key, spread) for key in keys[1:])]
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
        memory = jax.vmap(server_optimizer.init)(models)
        return ServerState(models, memory, jnp.zeros(clusters, bool)), jnp.int32(0)

    def client_update(
        server: ServerState, client: Array, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        # All models see the same images (one key). Not vmapped, since each may fill the memory.
        loss_key = jax.random.fold_in(key, Stream.CLUSTER)
        losses = jax.lax.map(
            lambda params: mean_loss(training, params, examples, loss_key), server.params
        )
        best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses)).astype(jnp.int32)
        choice = jnp.where(jnp.any(examples.mask), best, client)
        return _clusters.train_in(training, server.params, choice, examples, round, key)

    def process_updates(server: ServerState, results: ClientOutput) -> tuple[ServerState, Array]:
        return server._replace(chosen=_clusters.occupied(results, clusters)), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        params, memory = _clusters.step(
            server_optimizer, server.params, server.optimizer, message, server.chosen
        )
        return ServerState(params, memory, server.chosen)

    def personal_params(server: ServerState, client: Array) -> Params:
        return take(server.params, client)

    # No `download`: a client receives all models, the default.
    return FederatedAlgorithm(
        init, client_update, server_update, personal_params, clusters, process_updates
    )
