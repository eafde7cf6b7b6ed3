"""Ways to map a function of one client over all clients."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fedjax_med.core.types import Array


class MapClients(Protocol):
    """Maps a function of one client over all clients, as `jax.vmap` does."""

    def __call__(
        self, function: Callable[[Any, Any], Any], /, in_axes: Any
    ) -> Callable[[Any, Any], Any]:
        """Build the function that is mapped over all clients.

        Args:
            function: takes what all clients share, and one client.
            in_axes: ``(None, 0)``: the second argument has a leading client axis in every leaf.
        """


def sequential(function: Callable[[Any, Any], Any], in_axes: Any) -> Callable[[Any, Any], Any]:
    """Map like `jax.vmap`, but over one client after the other in one compiled loop."""
    del in_axes
    return lambda shared, clients: jax.lax.map(lambda one: function(shared, one), clients)


def clients_mesh() -> Mesh:
    """Build the 1-D mesh of all devices, over which clients are distributed."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("clients",), axis_types=auto)


def sharded(
    function: Callable[[Any, Any], Any], in_axes: Any, within: MapClients = jax.vmap
) -> Callable[[Any, Any], Any]:
    """Map like `jax.vmap`, with the clients spread over all devices and mapped by `within` on each.

    Where the devices do not divide the clients, arrays with one row per client are padded with
    repeats of the last row, whose results are dropped; longer arrays are padded already.
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
        # The devices do not communicate inside, so variance over devices need not be tracked.
        spread = jax.shard_map(
            within(function, in_axes=in_axes),
            mesh=mesh,
            in_specs=(whole, split),
            out_specs=split,
            check_vma=False,
        )
        return jax.tree.map(lambda leaf: leaf[:num_clients], spread(shared, padded))

    return mapped


class ClientMap(NamedTuple):
    """A way to map over clients; called like `jax.vmap`, with the same result.

    sequential: whether clients are computed one after the other, in the memory of one; otherwise
        all at once.
    sharded: whether clients are spread over all devices.
    """

    sequential: bool
    sharded: bool = False

    @property
    def name(self) -> str:
        """Name the client map as the configuration does."""
        return f"{'sharded_' * self.sharded}{'sequential' if self.sequential else 'vmap'}"

    def __call__(
        self, function: Callable[[Any, Any], Any], /, in_axes: Any
    ) -> Callable[[Any, Any], Any]:
        """Map `function`, which takes what all clients share and one client, over all clients."""
        within: MapClients = sequential if self.sequential else jax.vmap
        if self.sharded:
            return sharded(function, in_axes, within)
        return within(function, in_axes=in_axes)


CLIENT_MAPS = {
    one.name: one
    for one in (ClientMap(False), ClientMap(True), ClientMap(False, True), ClientMap(True, True))
}
