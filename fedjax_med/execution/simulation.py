"""Compiles the simulation of a federation for this machine, and fits it to the memory."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedjax_med import ops
from fedjax_med.core import communication
from fedjax_med.core import round as core_round
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process
from fedjax_med.core.round import ClientIndices
from fedjax_med.core.trees import take
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.data.client_data import ClientData
from fedjax_med.execution import backend, multihost, sharding
from fedjax_med.execution.prefetch import RoundLoader


class Simulation(NamedTuple):
    """A process, compiled for this machine.

    init: ``examples [C, N] -> state``, from the stacked clients or their shapes.
    process: the parts of a round.
    run_round: ``(state, data, places=None) -> (state, metrics)``, as in
        `fedjax_med.core.round.run_round`; donates the arrays of the given state.
    choose: ``(rounds done, sizes) -> cohort``, the clients that participate; None: all clients.
    backend: the chosen client map, and the reason.
    placement: the shardings of `run_round`'s inputs and outputs.
    lower: lowers `run_round` for the shapes of its arguments.
    personal: ``(state, client's index) -> params``, a client's personal model; None: all clients
        use the global model.
    batch_size: of local training, by which clients are bucketed; 0: all examples in one batch.
    smaller: the same simulation with less memory, if ``auto`` may choose it; else None.
    """

    init: Callable[[Examples], FederatedState]
    process: Process
    run_round: Callable[..., tuple[FederatedState, Metrics]]
    choose: Callable[[ArrayLike, Array], Array] | None
    backend: backend.Backend
    placement: sharding.Placement
    lower: Callable[..., jax.stages.Lowered]
    personal: Callable[[FederatedState, ArrayLike], Params] | None
    batch_size: int
    smaller: "Simulation | None" = None


def build_simulation(
    process: Process,
    init_params: Callable[[tuple[int, int, int]], Params],
    num_clients: int,
    key: Key,
    chosen: backend.Backend,
    batch_size: int,
) -> Simulation:
    """Build the simulation of `process` on this machine; its functions compile on first use.

    Args:
        process: the parts of a round.
        init_params: from the images' shape (H, W, ch) to the initial global parameters.
        num_clients: C.
        key: the key from which the randomness of every round is derived.
        chosen: the client map.
        batch_size: of local training.
    """
    place = sharding.of(chosen.client_map, num_clients)
    aggregator, cohort = process.aggregator, process.cohort

    @functools.partial(
        jax.jit,
        out_shardings=(place.state, place.metrics),
        donate_argnums=0,  # avoids holding the states of many clients in memory twice
        compiler_options=ops.compiler_options(),
    )
    def run(state: Any, data: Any, key: Key, places: ClientIndices) -> Any:
        return core_round.run_round(
            process.algorithm,
            aggregator,
            state,
            data,
            key,
            map_clients=chosen.client_map,
            # Excludes the empty clients that only fill a device.
            client_ids=jnp.arange(num_clients, dtype=jnp.int32),
            places=places,
            faults=process.faults,
            with_messages=process.keep_updates,
        )

    less = None
    if (smaller := chosen.smaller()) is not None:
        less = build_simulation(process, init_params, num_clients, key, smaller, batch_size)
    return Simulation(
        functools.partial(_first_state, process, init_params),
        process,
        lambda state, data, places=None: run(state, data, key, places),
        cohort and jax.jit(functools.partial(core_round.choose, cohort, key)),
        chosen,
        place,
        lambda state, data, places=None: run.lower(state, data, key, places),
        process.algorithm.personal_params and _personal(process.algorithm.personal_params),
        batch_size,
        less,
    )


def _first_state(
    process: Process, init_params: Callable[[tuple[int, int, int]], Params], data: Examples
) -> FederatedState:
    """Build the state before the first round, from the stacked clients [C, N] or their shapes."""
    height, width, channels = data.image.shape[-3:]
    params = init_params((height, width, channels))
    algorithm, aggregator = process.algorithm, process.aggregator
    state = core_round.init(algorithm, aggregator, params, data, process.cohort)
    # Some algorithms hold the initial parameters twice, and a buffer cannot be donated twice.
    copied: FederatedState = jax.tree.map(jnp.copy, state)
    return copied


def _personal(personal: Callable[[Any, Any], Params]) -> Callable[..., Params]:
    """Build the function from the whole state and a client's index to its personal model."""

    @jax.jit
    def of(state: FederatedState, place: ArrayLike) -> Params:
        return personal(state.server, take(state.clients, place))

    return of


def own_models(simulation: Simulation, state: FederatedState) -> Callable[[int], Params]:
    """Return the function from a client's index to its personal model, which must exist."""
    assert simulation.personal is not None
    return functools.partial(simulation.personal, state)


def traffic(simulation: Simulation, data: Examples) -> communication.Traffic:
    """Count the bytes that one client receives and sends in one round.

    Args:
        simulation: the compiled simulation.
        data: the shapes of the clients' training examples, [C, N].
    """
    state = jax.eval_shape(simulation.init, data)
    client = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.clients
    )
    process = simulation.process
    return communication.traffic(process.algorithm, process.transforms, state.server, client, data)


def round_loader(simulation: Simulation, clients: ClientData, last: int) -> RoundLoader:
    """Build the loader of each round's data, up to round `last`; the caller has to close it."""
    return RoundLoader(
        clients, simulation.choose, simulation.backend.client_map, simulation.batch_size, last
    )


def _bytes_on_a_device(data: Any) -> int:
    """Count the bytes that arrays, or their shapes with shardings, take on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(data)
    )


def fit_to_memory(simulation: Simulation, clients: ClientData) -> Simulation:
    """Return `simulation`, or its smaller variant if the device has too little memory for it.

    Compiles the round to measure its memory; compiles nothing if there is no smaller variant.
    """
    if simulation.smaller is None:
        return simulation
    with contextlib.closing(round_loader(simulation, clients, 1)) as shapes:
        data, places = shapes.largest()
    start = jax.jit(
        lambda: simulation.init(clients.shapes()), out_shardings=simulation.placement.state
    )
    ahead = _bytes_on_a_device(data) if places is not None and simulation.choose else 0
    needed = backend.bytes_needed(simulation.lower(start.eval_shape(), data, places))
    fits = needed + ahead <= backend.bytes_free()
    return simulation if multihost.all_of(fits) else simulation.smaller
