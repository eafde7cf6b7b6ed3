"""FedAdagrad, FedAdam and FedYogi: the server optimizers of Reddi et al.

ICLR 2021, "Adaptive Federated Optimization" (arXiv 2003.00295), Algorithm 2. With D the mean change
of the clients' models::

    m = b1 * m + (1 - b1) * D                                from m = 0
    v = v + D^2                                FedAdagrad,   from v = tau^2
    v = b2 * v + (1 - b2) * D^2                FedAdam
    v = v - (1 - b2) * D^2 * sign(v - D^2)     FedYogi
    x = x + learning_rate * m / (sqrt(v) + tau)

optax's ``adagrad``, ``adam`` and ``yogi`` differ: they correct the bias of m and v, which makes the
first steps of some coordinates several times larger or smaller, start from other values, and
``adagrad`` adds its ``eps`` under the root. The paper takes b1 = 0 for FedAdagrad.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.types import Array, Params
from fedjax_med.errors import UserError

Accumulate = Callable[[Array, Array], Array]  # from v and D^2 to the new v


class State(NamedTuple):
    """The moments of the pseudo-gradients."""

    first: Params  # m
    second: Params  # v


def fed_adagrad(
    learning_rate: float, b1: float = 0.0, tau: float = 1e-3
) -> optax.GradientTransformation:
    """Build FedAdagrad: steps shrink as a coordinate's squared changes add up.

    Args:
        learning_rate: of the server.
        b1: decay of the first moment; 0 in the paper.
        tau: above 0; the larger, the less the steps adapt to each coordinate.

    Raises:
        UserError: `tau` is not positive.
    """
    return _build("fed_adagrad", lambda second, square: second + square, learning_rate, b1, tau)


def fed_adam(
    learning_rate: float, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """Build FedAdam: steps are divided by the root of a moving average of the squared changes.

    Args:
        learning_rate: of the server.
        b1: decay of the first moment.
        b2: decay of the second moment.
        tau: above 0; the larger, the less the steps adapt to each coordinate.

    Raises:
        UserError: `tau` is not positive.
    """

    def accumulate(second: Array, square: Array) -> Array:
        return b2 * second + (1 - b2) * square

    return _build("fed_adam", accumulate, learning_rate, b1, tau)


def fed_yogi(
    learning_rate: float, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """Build FedYogi: as FedAdam, but the second moment moves by at most (1 - b2) D^2.

    Args:
        learning_rate: of the server.
        b1: decay of the first moment.
        b2: decay of the second moment.
        tau: above 0; the larger, the less the steps adapt to each coordinate.

    Raises:
        UserError: `tau` is not positive.
    """

    def accumulate(second: Array, square: Array) -> Array:
        return second - (1 - b2) * square * jnp.sign(second - square)

    return _build("fed_yogi", accumulate, learning_rate, b1, tau)


def _build(
    name: str, accumulate: Accumulate, learning_rate: float, b1: float, tau: float
) -> optax.GradientTransformation:
    if not tau > 0:
        raise UserError(f"expected server optimizer {name} to have tau > 0, got tau={tau}.")

    def init(params: Params) -> State:
        return State(
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(lambda leaf: jnp.full_like(leaf, tau**2), params),
        )

    def update(gradient: Params, state: State, params: Any = None) -> tuple[Params, State]:
        del params
        # The message is global - local, -D in the paper's terms, so the step is subtracted.
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, gradient)
        second = jax.tree.map(lambda v, g: accumulate(v, jnp.square(g)), state.second, gradient)
        step = jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v) + tau), first, second)
        return step, State(first, second)

    return optax.GradientTransformation(init, update)


# By the names that `--config.server_optimizer.name` takes beside those of optax.
SERVER_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "fed_adagrad": fed_adagrad,
    "fed_adam": fed_adam,
    "fed_yogi": fed_yogi,
}
