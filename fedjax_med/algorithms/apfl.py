"""APFL (Deng et al., 2020, "Adaptive Personalized Federated Learning").

A client uses a mixture, ``alpha * own + (1 - alpha) * global``. It trains the global model as in
FedAvg and, on the same batches, its own model to improve the mixture.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTrainer, resume_training
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, client_output
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


class ClientState(NamedTuple):
    """A client's own model, its share in the mixture, and its optimizer state."""

    params: Params
    alpha: Array  # float32 []
    optimizer: optax.OptState


class _Trained(NamedTuple):
    """The parameters that a client trains together."""

    shared: Params
    own: Params
    alpha: Array


def _mixture(alpha: Array, own: Params, shared: Params) -> Params:
    return jax.tree.map(lambda a, b: alpha * a + (1 - alpha) * b, own, shared)


def _gradient(grad_fn: GradFn) -> GradFn:
    """Build the gradients of the shared loss, and of the mixture's by own model and alpha."""

    @functools.wraps(grad_fn)
    def gradient(now: _Trained, batch: Examples, key: Key) -> tuple[_Trained, Metrics]:
        of_shared, metrics = grad_fn(now.shared, batch, key)
        of_mixture, _ = grad_fn(_mixture(now.alpha, now.own, now.shared), batch, key)
        slope = optax.tree.vdot(of_mixture, optax.tree.sub(now.own, now.shared))
        of_own = jax.tree.map(lambda leaf: now.alpha * leaf, of_mixture)
        return _Trained(of_shared, of_own, slope), metrics

    return gradient


def _optimizer(one: optax.GradientTransformation, adapt: float) -> optax.GradientTransformation:
    """Apply `one` to each model separately; alpha follows gradient descent, clipped to [0, 1]."""

    def init(now: _Trained) -> optax.OptState:
        return one.init(now.shared), one.init(now.own)

    def update(
        gradient: _Trained, state: optax.OptState, now: _Trained
    ) -> tuple[_Trained, optax.OptState]:
        shared, first = one.update(gradient.shared, state[0], now.shared)
        own, second = one.update(gradient.own, state[1], now.own)
        alpha = jnp.clip(now.alpha - adapt * gradient.alpha, 0, 1)
        return _Trained(shared, own, alpha - now.alpha), (first, second)

    return optax.GradientTransformation(init, update)


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    alpha: float = 0.5,
    adapt: float = 0.0,
) -> FederatedAlgorithm:
    """Build FedAvg whose clients mix the global model with one of their own.

    With alpha 0 a client uses FedAvg's model, with 1 a model trained by this client alone. The own
    model and its optimizer state are kept from round to round; its gradient is alpha times that
    of the mixture.

    Args:
        training: settings of local training, for both models.
        server_optimizer: steps against the aggregated message.
        alpha: in [0, 1], the initial share of the own model in the mixture.
        adapt: learning rate of alpha, by gradient descent in every step; 0 keeps alpha fixed.

    Raises:
        UserError: `alpha` or `adapt` is out of range.
    """
    if not (0 <= alpha <= 1 and adapt >= 0):
        raise UserError(
            "expected algorithm apfl to have alpha in [0, 1] and adapt >= 0, got "
            f"alpha={alpha} and adapt={adapt}."
        )
    shared = fed_avg.build(training, server_optimizer)
    both = training._replace(
        grad_fn=_gradient(training.grad_fn), optimizer=_optimizer(training.optimizer, adapt)
    )

    def init(params: Params) -> tuple[ServerState, ClientState]:
        memory = training.optimizer.init(params)
        return shared.init(params)[0], ClientState(params, jnp.float32(alpha), memory)

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        start = _Trained(server.params, client.params, client.alpha)
        memory = (training.optimizer.init(server.params), client.optimizer)
        end, (_, kept), metrics = resume_training(both, start, memory, examples, key, round)
        state = ClientState(end.own, end.alpha, kept)
        return client_output(server.params, end.shared, state, examples, metrics)

    def personal_params(server: ServerState, client: ClientState) -> Params:
        return _mixture(client.alpha, client.params, server.params)

    return FederatedAlgorithm(
        init, client_update, shared.server_update, personal_params=personal_params
    )
