"""Checks of a simulation: states, examples and aggregators that do not go together."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, ClientInfo, all_clients, per_cluster
from fedjax_med.core.algorithm import FederatedState, message_of
from fedjax_med.core.process import Process
from fedjax_med.core.round import cohort_size
from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Message
from fedjax_med.data.client_data import ClientData
from fedjax_med.errors import UserError, check_name, fitting


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)


def shapes_of(clients: ClientData) -> Any:
    """Give the shapes of the examples of all clients."""
    return _shapes(clients.split.image)


def check_state(process: Process, state: FederatedState, clients: ClientData) -> None:
    """Refuse a state of other clients, or examples that the process cannot train on.

    Indices beyond the rows of an array are not refused in a compiled program.
    """
    data = clients.shapes()
    for leaf in jax.tree.leaves(state.clients):
        if leaf.shape[0] != len(clients.indices):
            raise UserError(
                f"the state is of {leaf.shape[0]} clients, and there are {len(clients.indices)}: "
                "build it with Simulation.init for these."
            )
    one = jax.eval_shape(lambda: take(state.clients, 0))
    with fitting(shapes_of(clients)):
        message = message_of(process.algorithm, state.server, one, data)
    senders = len(clients.indices)
    if process.cohort is not None:
        senders = cohort_size(process.cohort, senders)
    aggregator = per_cluster(process.aggregator, process.algorithm.num_clusters)
    expected = jax.eval_shape(
        lambda: aggregator.init(zeros_like_shapes(message), len(clients.indices), senders)
    )
    if _shapes(expected) != _shapes(state.aggregator):
        raise UserError(
            f"the aggregator's state is not that of {len(clients.indices)} clients: build the "
            "state with Simulation.init for these."
        )
    _check_aggregator(aggregator, message, expected, senders, process.algorithm.num_clusters)


def _check_aggregator(
    aggregator: Aggregator, message: Message, state: Any, senders: int, num_clusters: int
) -> None:
    """Refuse an aggregator that returns other shapes than it must.

    Args:
        aggregator: of all clusters.
        message: the shapes of one client's message.
        state: the shapes of the aggregator's state.
        senders: S.
        num_clusters: G; 0: no clusters.
    """
    lead = (num_clusters,) if num_clusters else ()

    def stacked(leaf: Any, *rows: int) -> Any:
        return jax.ShapeDtypeStruct((*rows, *leaf.shape), leaf.dtype)

    messages = jax.tree.map(lambda leaf: stacked(leaf, senders), message)
    info = all_clients(jnp.ones(senders))
    try:
        found = jax.eval_shape(aggregator.update, messages, info, state, jax.random.key(0))
    except AttributeError as error:
        if not isinstance(error.obj, ClientInfo):
            raise
        check_name(str(error.name), ClientInfo._fields, "ClientInfo, which an aggregator is given")
        raise
    if not isinstance(found, tuple) or len(found) != 2:
        raise UserError("expected the aggregator's update to return (message, state).")
    expected = jax.tree.map(lambda leaf: stacked(leaf, *lead), message)
    for what, right, got in (("message", expected, found[0]), ("new state", state, found[1])):
        if jax.tree.map(lambda a: (a.shape, a.dtype), right) != jax.tree.map(
            lambda a: (a.shape, a.dtype), got
        ):
            raise UserError(
                f"expected the aggregator's {what} to have the shapes and dtypes "
                f"{_described(right)}, got {_described(got)}."
            )


def _described(tree: Any) -> str:
    """Describe the shapes and dtypes of the first leaves."""
    leaves = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree)[:4]]
    return ", ".join(leaves) or "()"
