"""FedRep (Collins et al., ICML 2021, "Exploiting Shared Representations for Personalized FL").

As in FedPer each client has a head of its own, but it trains the head to the body that it is sent
before it lets the body learn, so that the body's step does not make up for a head that lags.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_bn
from fedjax_med.algorithms._partial import join, split
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTraining, train
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.errors import UserError

_BODY = 106  # the client's key is folded with the numbers of the head's epochs


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("classifier",),
    head_epochs: int = 5,
) -> FedAlgorithm:
    """Clients train their head with the body fixed, then the body with the head fixed.

    The metrics are the sums over both.

    Args:
        training: how a client trains; its epochs are the body's.
        server_optimizer: steps against the reduced message, the body alone.
        local: which leaves are the private head (`fedjax_med.algorithms._partial.split`).
        head_epochs: passes over the client's examples that train the head, at least 1.

    Raises:
        UserError: `head_epochs` is below 1 or, in ``init``, `local` names what the model does not
            have, or all of it.
    """
    if head_epochs < 1:
        raise UserError(f"expected algorithm fed_rep to have head_epochs >= 1, got {head_epochs}.")
    joint = fed_bn.build(training, server_optimizer, local=local)

    def client_update(
        server: ServerState, own: Params, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        body, _ = split(server.params, local)

        def head_grad(moving: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(join(body, moving), batch, key)
            return split(gradient, local)[1], metrics

        of_head = training._replace(grad_fn=head_grad, epochs=head_epochs)
        head, first = train(of_head, own, examples, key, round)

        def body_grad(moving: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(join(moving, head), batch, key)
            return split(gradient, local)[0], metrics

        of_body = training._replace(grad_fn=body_grad)
        trained, second = train(of_body, body, examples, jax.random.fold_in(key, _BODY), round)
        delta = jax.tree.map(jnp.subtract, body, trained)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        return ClientResult(delta, head, weight, jax.tree.map(jnp.add, first, second))

    return joint._replace(client_update=client_update)
