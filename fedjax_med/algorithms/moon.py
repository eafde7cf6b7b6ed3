"""MOON (Li, He, Song, CVPR 2021, "Model-Contrastive Federated Learning").

While a client trains, what its model makes of an image is drawn to what the global model makes of
it, and away from what the client's model of its last round makes of it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTraining, train
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


class Views(NamedTuple):
    """What three models make of a batch, float [B, D] each."""

    own: Array
    shared: Array  # of the global model
    previous: Array  # of the client's model after its last round


def contrastive(views: Views, mask: Array, temperature: float) -> Array:
    """The model-contrastive loss, by cosine similarity: float32 [], the mean over real examples.

    Args:
        views: padding may hold anything.
        mask: bool [B]; False is padding.
        temperature: above 0; the similarities are divided by it.
    """
    own, shared, previous = (jnp.where(mask[:, None], view, 0) for view in views)
    near = optax.cosine_similarity(own, shared, epsilon=1e-8)
    far = optax.cosine_similarity(own, previous, epsilon=1e-8)
    # -log(exp(near) / (exp(near) + exp(far)))
    losses = jax.nn.softplus((far - near) / temperature)
    return jnp.sum(losses, where=mask) / jnp.maximum(jnp.sum(mask), 1)


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    mu: float = 1.0,
    temperature: float = 0.5,
) -> FedAlgorithm:
    """FedAvg, whose clients add `mu` times the model-contrastive loss to theirs.

    A client keeps its last local model; before its first round that is the first global one (if it
    takes part from the beginning, the loss has no gradient then). The features are those of the
    images before they are mixed.

    Args:
        training: how a client trains; has `features`.
        server_optimizer: steps against the reduced message.
        mu: at least 0; 0 is FedAvg, 0.1 to 10 in the paper.
        temperature: above 0, tau of the paper.

    Raises:
        UserError: an option is out of its range, or `training` has no features.
    """
    if not 0 <= mu < math.inf:
        raise UserError(f"expected algorithm moon to have mu >= 0, got mu={mu}.")
    if not temperature > 0:
        raise UserError(
            f"expected algorithm moon to have temperature > 0, got temperature={temperature}."
        )
    features = training.features
    if features is None:
        raise UserError(
            "expected algorithm moon to have a model that tells its features, got one without: "
            "choose another --config.model or --config.algorithm."
        )
    average = fed_avg.build(training, server_optimizer)

    def contrasting(shared: Params, previous: Params) -> GradFn:
        def gradient(params: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            plain, metrics = training.grad_fn(params, batch, key)
            others = features(shared, batch, key), features(previous, batch, key)

            def loss(params: Params) -> Array:
                views = Views(features(params, batch, key), *others)
                return contrastive(views, batch.mask, temperature)

            return jax.tree.map(lambda a, b: a + mu * b, plain, jax.grad(loss)(params)), metrics

        return gradient

    def init(params: Params) -> tuple[fed_avg.ServerState, Params]:
        return average.init(params)[0], params

    def client_update(
        server: fed_avg.ServerState, client: Params, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        grad_fn = contrasting(server.params, client) if mu else training.grad_fn
        changed = training._replace(grad_fn=grad_fn)
        params, metrics = train(changed, server.params, examples, key, round)
        delta = jax.tree.map(jnp.subtract, server.params, params)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        return ClientResult(delta, params, weight, metrics)

    return FedAlgorithm(init, client_update, average.server_update)
