"""IFCA (Ghosh et al., NeurIPS 2020, "An Efficient Framework for Clustered Federated Learning").

The same as HypCluster (Mansour et al., 2020, "Three Approaches for Personalization with
Applications to Federated Learning"): there are several models, each client is sent all of them, and
trains the one that has the least loss on its examples. Models are averaged over the clients that
chose them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _clusters as stacked
from fedjax_med.client.local_training import LocalTraining, mean_loss
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError

_CHOICE = 106  # the client's key is split into 0 and 1 already


class ServerState(NamedTuple):
    """The models, what their server optimizers remember, and who of them is to move."""

    params: Params  # [k, ...] in every leaf
    optimizer: optax.OptState  # [k, ...] in every leaf
    chosen: Array  # bool [k], whether a client that counts trained it in the last round


def _spread(params: Params, key: Key, spread: float) -> Params:
    """`params` with noise in proportion to the standard deviation of each leaf."""
    leaves, structure = jax.tree.flatten(params)

    def noisy(leaf: Array, key: Key) -> Array:
        deviation = jnp.std(leaf)
        if leaf.ndim > 1:  # a kernel that starts at zero must get apart from the others as well
            inputs = math.prod(leaf.shape[:-1])
            deviation = jnp.where(deviation > 0, deviation, 1 / math.sqrt(inputs))
        return leaf + spread * deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(noisy, leaves, keys))


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    clusters: int = 2,
    spread: float = 0.1,
    seed: int = 0,
) -> FedAlgorithm:
    """Each client trains the model that suits it best; a model that nobody chose stays as it is.

    A client is evaluated by the model that it chose last, and by the first one before it has.

    Args:
        training: how a client trains; its loss decides which model suits.
        server_optimizer: steps against the reduced message of each cluster, by itself.
        clusters: k, the number of models; 1 is FedAvg.
        spread: how far the first models are apart, else all clients would choose the same one. The
            first model is the one that is given; others have Gaussian noise added, of `spread`
            times the standard deviation of each leaf's values. Biases and scales, which start
            equal, have no noise then; a kernel that starts at zero has noise of `spread` / sqrt(its
            inputs). About 1 for models from scratch, less for pretrained ones.
        seed: of the noise.

    Raises:
        UserError: an option is out of its range.
    """
    if clusters < 1:
        raise UserError(f"expected algorithm ifca to have clusters >= 1, got clusters={clusters}.")
    if not 0 <= spread < math.inf:
        raise UserError(f"expected algorithm ifca to have spread >= 0, got spread={spread}.")

    def init(params: Params) -> tuple[ServerState, Array]:
        keys = jax.random.split(jax.random.key(seed), clusters)
        models = [params, *(_spread(params, key, spread) for key in keys[1:])]
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
        memory = jax.vmap(server_optimizer.init)(models)
        return ServerState(models, memory, jnp.zeros(clusters, bool)), jnp.int32(0)

    def client_update(
        server: ServerState, client: Array, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        # All models see the same images. One after the other, since each may fill the memory.
        loss_key = jax.random.fold_in(key, _CHOICE)
        losses = jax.lax.map(
            lambda params: mean_loss(training, params, examples, loss_key), server.params
        )
        best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses)).astype(jnp.int32)
        choice = jnp.where(jnp.any(examples.mask), best, client)
        return stacked.train_in(training, server.params, choice, examples, round, key)

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, Array]:
        return server._replace(chosen=stacked.occupied(results, clusters)), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        params, memory = stacked.step(
            server_optimizer, server.params, server.optimizer, message, server.chosen
        )
        return ServerState(params, memory, server.chosen)

    def personal(server: ServerState, client: Array) -> Params:
        return stacked.pick(server.params, client)

    # Nothing for `download`: what a client is sent is all the models.
    return FedAlgorithm(init, client_update, server_update, personal, clusters, receive)
