"""Learning-rate schedules, slower backbones and step weights for the clients' optimizers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.trees import zeros_like_shapes
from fedjax_med.core.types import Array, Params
from fedjax_med.errors import UserError, check_name


def constant(round: Array) -> Array:
    """Give the schedule factor 1, which leaves the learning rate unchanged."""
    return jnp.ones_like(round, jnp.float32)


def discriminative_rates(
    optimizer: optax.GradientTransformation, factor: float, head: str
) -> optax.GradientTransformation:
    """Multiply the updates of `optimizer` by `factor`, except those of the model's `head`.

    A pretrained backbone needs smaller steps than a randomly initialised classifier
    ("discriminative fine-tuning", Howard & Ruder, ACL 2018); 0 freezes it.

    Args:
        optimizer: any optax optimizer.
        factor: at least 0.
        head: the key of the classifier in the parameters.
    """
    if factor == 1:
        return optimizer

    def scale(updates: Params, params: Params | None = None) -> Params:
        del params
        return {
            name: part if name == head else jax.tree.map(lambda leaf: factor * leaf, part)
            for name, part in updates.items()
        }

    return optax.chain(optimizer, optax.stateless(scale))


def leave_fixed(
    optimizer: optax.GradientTransformation, fixed: tuple[str, ...]
) -> optax.GradientTransformation:
    """Leave some parameters unchanged, also under weight decay.

    Args:
        optimizer: any optax optimizer.
        fixed: the keys of these parameters.
    """
    if not fixed:
        return optimizer

    def zero(updates: Params, params: Params | None = None) -> Params:
        del params
        return updates | {name: zeros_like_shapes(updates[name]) for name in fixed}

    return optax.chain(optimizer, optax.stateless(zero))


def schedule(name: str, rounds: int, warmup_rounds: int) -> Callable[[Array], Array]:
    """Build the schedule of the learning rate's factor by round, between 0 and 1.

    Args:
        name: ``constant``, or ``cosine``: decays to 0 at `rounds` (Loshchilov & Hutter, ICLR 2017).
        rounds: the rounds of the whole experiment.
        warmup_rounds: rounds in which the factor rises linearly to 1; the first is above 0.

    Raises:
        UserError: There is no such schedule, or the warm-up is not shorter than the experiment.
    """
    check_name(name, ("constant", "cosine"), "the client's schedules")
    if not 0 <= warmup_rounds < max(rounds, 1):
        raise UserError(
            f"expected 0 <= --config.client.warmup_rounds < {rounds} rounds, got {warmup_rounds}."
        )
    main = optax.constant_schedule(1.0)
    if name == "cosine":
        main = optax.cosine_decay_schedule(1.0, max(1, rounds - warmup_rounds))
    if not warmup_rounds:
        return main  # type: ignore[no-any-return]
    rise = optax.linear_schedule(1.0 / (warmup_rounds + 1), 1.0, warmup_rounds)
    return optax.join_schedules([rise, main], [warmup_rounds])  # type: ignore[no-any-return]


StepWeight = Callable[[Array], Array]


def sgd_step_weight(momentum: float = 0.0, nesterov: bool = False) -> StepWeight:
    """Build the total gradient weight of K SGD steps: the l1 norm of a_i in FedNova's paper.

    Wang et al., NeurIPS 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization". Without momentum it is K. With momentum step k adds up all gradients
    so far, 1 + m + ... + m^(k-1); with Nesterov's momentum that times m, plus 1.

    Args:
        momentum: m, in [0, 1).
        nesterov: whether the momentum is Nesterov's.

    Returns:
        The function from the number of steps to the weight, float32 of the same shape.
    """

    def weight(steps: Array) -> Array:
        left = steps - momentum * (1 - momentum**steps) / (1 - momentum)
        total = left / (1 - momentum)
        return steps + momentum * total if nesterov else total

    return weight
