"""The ways to map a function of one client over all clients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fedjax_med.core.types import Array

# Called as `map_clients(function, in_axes=(None, 0))`, like `jax.vmap`: all clients share the
# function's first argument, and its second has a leading client axis in every leaf.
MapClients = Callable[..., Callable[[Any, Any], Any]]


def sequential(function: Callable[[Any, Any], Any], in_axes: Any) -> Callable[[Any, Any], Any]:
    """What `jax.vmap` gives, computed for one client after the other in one compiled loop."""
    del in_axes
    return lambda shared, clients: jax.lax.map(lambda one: function(shared, one), clients)


def clients_mesh() -> Mesh:
    """All devices, in one row over which clients are dealt."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("clients",), axis_types=auto)


def sharded(
    function: Callable[[Any, Any], Any], in_axes: Any, within: MapClients = jax.vmap
) -> Callable[[Any, Any], Any]:
    """What `jax.vmap` gives, with the clients dealt over all devices and mapped `within` each.

    Where the devices do not divide the clients, arrays with a row for each client are filled with
    repeats of the last one, what comes of them is dropped, and longer arrays are full already.
    """
    mesh, devices = clients_mesh(), jax.device_count()
    split, whole = PartitionSpec("clients"), PartitionSpec()

    def mapped(shared: Any, clients: Any) -> Any:
        num_clients = min(leaf.shape[0] for leaf in jax.tree.leaves(clients))
        rows = num_clients + -num_clients % devices

        def filled(leaf: Array) -> Array:
            fill = rows - leaf.shape[0]
            return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], fill, axis=0)]) if fill else leaf

        padded = jax.tree.map(filled, clients)
        # No device talks to another inside, so what varies over devices need not be tracked.
        spread = jax.shard_map(
            within(function, in_axes=in_axes),
            mesh=mesh,
            in_specs=(whole, split),
            out_specs=split,
            check_vma=False,
        )
        return jax.tree.map(lambda leaf: leaf[:num_clients], spread(shared, padded))

    return mapped


STRATEGIES: dict[str, MapClients] = {
    "vmap": jax.vmap,
    "sequential": sequential,
    "sharded_vmap": sharded,
    "sharded_sequential": functools.partial(sharded, within=sequential),
}
