"""FedRep (Collins et al., ICML 2021, "Exploiting Shared Representations for Personalized FL").

As in FedPer each client has a head of its own, but first fits it to the body that it received and
only then trains the body, so that the body does not compensate for an outdated head.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_bn
from fedjax_med.algorithms._partial import merge, split
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTrainer, train
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, Traits, client_output
from fedjax_med.core.random import Stream
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.errors import UserError


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("classifier",),
    head_epochs: int = 5,
) -> FederatedAlgorithm:
    """Build FedRep: clients train the head with the body fixed, then the body with the head fixed.

    The metrics are summed over both phases.

    Args:
        training: settings of local training; its epochs are the body's.
        server_optimizer: steps against the aggregated message, the body only.
        local: patterns of the private head (`fedjax_med.algorithms._partial.split`).
        head_epochs: epochs of the head in a round, at least 1.

    Raises:
        UserError: `head_epochs` is below 1 or, in ``init``, a pattern in `local` matches no leaf,
            or all leaves match.
    """
    if head_epochs < 1:
        raise UserError(f"expected algorithm fed_rep to have head_epochs >= 1, got {head_epochs}.")
    joint = fed_bn.build(training, server_optimizer, local=local)

    def client_update(
        server: ServerState, own: Params, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        body, _ = split(server.params, local)

        @functools.wraps(training.grad_fn)
        def head_grad(moving: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(merge(body, moving), batch, key)
            return split(gradient, local)[1], metrics

        of_head = training._replace(grad_fn=head_grad, epochs=head_epochs)
        head, first = train(of_head, own, examples, key, round)

        @functools.wraps(training.grad_fn)
        def body_grad(moving: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(merge(moving, head), batch, key)
            return split(gradient, local)[0], metrics

        of_body = training._replace(grad_fn=body_grad)
        trained, second = train(
            of_body, body, examples, jax.random.fold_in(key, Stream.BODY), round
        )
        return client_output(body, trained, head, examples, jax.tree.map(jnp.add, first, second))

    # Not `steps_only`: the head's epochs are steps in addition to those of the trainer.
    return joint._replace(client_update=client_update, traits=Traits())
