"""Placement of a round's arrays: on one device, or sharded over several."""

from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.client_map import ClientMap, clients_mesh


class Placement(NamedTuple):
    """The shardings of a round's arrays, for jit; the same before and after a round.

    So arrays that are placed once are neither copied nor compiled for again.
    """

    state: Any  # of a `FederatedState`
    data: Any  # of the clients' examples
    metrics: Any
    rows: int  # of the clients' examples: C, plus empty clients that fill the last device


def of(client_map: ClientMap, num_clients: int) -> Placement:
    """Choose the placement for `client_map` with `num_clients` clients.

    With a sharded client map, a client's examples lie on the client's device, and so does its state
    if the devices divide the clients evenly; all else is replicated on every device.
    """
    if not client_map.sharded:
        one = SingleDeviceSharding(jax.devices()[0])
        return Placement(one, one, one, num_clients)
    mesh = clients_mesh()
    whole: Any = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("clients"))
    fill = -num_clients % jax.device_count()
    states = whole if fill else split
    return Placement(FederatedState(whole, whole, states, whole), split, whole, num_clients + fill)
