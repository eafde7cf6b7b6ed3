"""MOON (Li, He, Song, CVPR 2021, "Model-Contrastive Federated Learning").

In local training, the model's features of an image are drawn towards the global model's features
and away from those of the client's model after its previous round. The paper's models have a
projection head between the features and the classifier, a small network whose output it compares;
here there is none, and the features before the classifier are compared.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer, train
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, client_output
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


class Views(NamedTuple):
    """Features of a batch from three models, float [B, D] each."""

    own: Array
    shared: Array  # of the global model
    previous: Array  # of the client's model after its last round


def contrastive(views: Views, mask: Array, temperature: float) -> Array:
    """Compute the model-contrastive loss, the mean over real examples: float32 [].

    Args:
        views: the features; padding may hold anything.
        mask: bool [B]; False is padding.
        temperature: above 0; the cosine similarities are divided by it.
    """
    own, shared, previous = (jnp.where(mask[:, None], view, 0) for view in views)
    near = optax.cosine_similarity(own, shared, epsilon=1e-8)
    far = optax.cosine_similarity(own, previous, epsilon=1e-8)
    # -log(exp(near) / (exp(near) + exp(far)))
    losses = jax.nn.softplus((far - near) / temperature)
    return jnp.sum(losses, where=mask) / jnp.maximum(jnp.sum(mask), 1)


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    mu: float = 1.0,
    temperature: float = 0.5,
) -> FederatedAlgorithm:
    """Build FedAvg whose clients add `mu` times the model-contrastive loss to theirs.

    A client keeps its last local model; before its first round that is the initial global model
    (so in round 0 it equals the global one, and the contrastive loss has no gradient). The
    features are of the images before mixup.

    Args:
        training: settings of local training; must have `features`.
        server_optimizer: steps against the aggregated message.
        mu: at least 0; 0 is FedAvg, 0.1 to 10 in the paper.
        temperature: above 0, tau of the paper.

    Raises:
        UserError: an option is out of range, or `training` has no `features`.
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
        @functools.wraps(training.grad_fn)
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
    ) -> ClientOutput:
        grad_fn = contrasting(server.params, client) if mu else training.grad_fn
        changed = training._replace(grad_fn=grad_fn)
        params, metrics = train(changed, server.params, examples, key, round)
        return client_output(server.params, params, params, examples, metrics)

    return FederatedAlgorithm(init, client_update, average.server_update)
