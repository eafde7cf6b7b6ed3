"""What clients do after their transforms, so that the server can follow them.

Where the server adds up what a client sends, and the client the same, only what is sent may be
added (as the shifts of DIANA, Mishchenko et al., 2019, or EF21, Richtarik et al., NeurIPS 2021).
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.algorithm import ClientState, ServerState
from fedjax_med.core.trees import select
from fedjax_med.core.types import Array, Message, Params

# Above these nothing is scaled: what is sent is near enough, and keeps its 16 bits, say.
_FOLLOWS, _BOUNDED = 0.75, 0.9


def _inner(first: Message, second: Message) -> Array:
    """Compute the inner product over all leaves: float32 []."""
    products = jax.tree.map(
        lambda a, b: jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32)), first, second
    )
    total: Array = sum(jax.tree.leaves(products), jnp.float32(0))
    return total


def scaled(message: Message, factor: Array) -> Message:
    """Multiply all leaves by `factor`."""
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), message)


def following(message: Message, sent: Message) -> Array:
    """Compute the factor in [0, 1] that brings `sent` nearest to `message`: float32 [].

    Whatever the transforms do, the rest that was not sent is then no longer than the message; the
    unbiased `random_k` of a share s makes it longer by 1 / s - 1, and the factor is s.
    """
    factor = _inner(message, sent) / _inner(sent, sent)
    factor = jnp.where(jnp.isfinite(factor), jnp.maximum(factor, 0), 0)
    return jnp.where(factor >= _FOLLOWS, 1, factor)


def bounded(message: Message, sent: Message) -> Array:
    """Compute the factor that makes `sent` no longer than `message`: float32 [], at most 1.

    Rare values that are scaled up, or that were held back for many rounds, would else make the
    server's steps too long.
    """
    factor = jnp.sqrt(_inner(message, message) / _inner(sent, sent))
    factor = jnp.where(jnp.isfinite(factor), factor, 0)
    return jnp.where(factor >= _BOUNDED, 1, factor)


def with_controls(
    client: ClientState, message: Message, sent: Message
) -> tuple[Message, ClientState]:
    """Do what SCAFFOLD's clients do: c_i changes by what the server hears, so that c is their mean.

    Args:
        client: with the field `control`, c_i after the local training.
        message: (delta, change of c_i).
        sent: the same after the transforms.
    """
    delta = scaled(sent[0], bounded(message[0], sent[0]))
    heard = scaled(sent[1], following(message[1], sent[1]))
    control = jax.tree.map(lambda c, h, m: c + (h - m), client.control, heard, message[1])
    return (delta, heard), client._replace(control=control)


def nearer(trained: Params, near: Params, own: Params, lossy: Array) -> Params:
    """Select the model that FedDyn's message starts from, so that the message is the shorter.

    Args:
        trained: the client's, after its local training.
        near: the global model, from which messages start if nothing is lost.
        own: the client's last model as the server knows it, if `lossy`.
        lossy: bool [], whether there is such a model.
    """
    apart = jax.tree.map(jnp.subtract, near, trained)
    stale = jax.tree.map(jnp.subtract, own, trained)
    return select(lossy & (_inner(stale, stale) < _inner(apart, apart)), own, near)


def with_gradient(
    alpha: float, client: ClientState, message: Message, sent: Message
) -> tuple[Message, ClientState]:
    """Do what FedDyn's clients do: keep the model and g_i that follow from what the server hears.

    Args:
        alpha: FedDyn's.
        client: after the local training, with the fields `gradient`, g_i, `model` and `lossy`.
        message: the model that it starts from (`nearer`) - the trained one.
        sent: the same after the transforms.
    """
    heard = scaled(sent, following(message, sent))
    excess = jax.tree.map(jnp.subtract, heard, message)
    some = [jnp.any(leaf != 0) for leaf in jax.tree.leaves(excess)]
    return heard, client._replace(
        gradient=jax.tree.map(lambda g, more: g + alpha * more, client.gradient, excess),
        model=jax.tree.map(jnp.subtract, client.model, excess),
        lossy=jnp.any(jnp.stack([client.lossy, *some])),
    )


def from_model(server: ServerState, client: ClientState, sent: Message) -> Message:
    """Do what FedDyn's server does: compute the global model - the client's as it arrived."""
    delta = jax.tree.map(jnp.subtract, server.params, client.model)
    return select(client.lossy, delta, sent)
