"""Where the arrays of a round live: on one device, or divided over several."""

from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from fedjax_med.core.client_map import clients_mesh
from fedjax_med.core.round import FedState


class Placement(NamedTuple):
    """Where the arrays of a round live, as jit's shardings; the same before and after a round.

    What is placed so once is neither copied nor compiled for again.
    """

    state: Any  # of a `FedState`
    data: Any  # of the clients' examples
    metrics: Any
    rows: int  # of the clients' examples: C, and what fills the last device


def of(name: str, num_clients: int) -> Placement:
    """The placement that suits the strategy `name` of `STRATEGIES` with `num_clients` clients.

    Under a sharded one a client's examples lie on the client's device and the rest on all of them;
    where the devices divide the clients, the client's state lies there too.
    """
    if not name.startswith("sharded"):
        one = SingleDeviceSharding(jax.devices()[0])
        return Placement(one, one, one, num_clients)
    mesh = clients_mesh()
    whole: Any = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("clients"))
    fill = -num_clients % jax.device_count()
    states = whole if fill else split
    return Placement(FedState(whole, whole, states, whole), split, whole, num_clients + fill)
