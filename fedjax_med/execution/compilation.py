"""Compiles a process for the clients and devices of this machine, and fits it to the memory."""

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
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process
from fedjax_med.core.round import ClientIndices, RoundBatch, choose
from fedjax_med.core.trees import take
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.data.client_data import ClientData
from fedjax_med.execution import backend, multihost, sharding
from fedjax_med.execution.prefetch import RoundLoader


class CompiledProcess(NamedTuple):
    """A process, compiled for its clients on this machine.

    process: the parts of a round.
    run_round: ``(state, batch, key) -> (state, metrics)``, as `Process.round` does; donates the
        arrays of the given state.
    lower: lowers `run_round` for the shapes of its arguments.
    choose: ``(key, rounds done, sizes) -> cohort``, the clients that participate; None: all.
    personal: ``(state, client's index) -> params``, a client's personal model; None: all clients
        use the global model.
    backend: the chosen client map, and the reason.
    placement: the shardings of `run_round`'s inputs and outputs.
    batch_size: of local training, by which clients are bucketed; 0: all examples in one batch.
    smaller: the same process in less memory, if ``auto`` may choose it; else None.
    """

    process: Process
    run_round: Callable[[FederatedState, RoundBatch, Key], tuple[FederatedState, Metrics]]
    lower: Callable[[FederatedState, RoundBatch, Key], jax.stages.Lowered]
    choose: Callable[[Key, ArrayLike, Array], Array] | None
    personal: Callable[[FederatedState, ArrayLike], Params] | None
    backend: backend.Backend
    placement: sharding.Placement
    batch_size: int
    smaller: "CompiledProcess | None" = None


def compile_process(
    process: Process, num_clients: int, chosen: backend.Backend, batch_size: int
) -> CompiledProcess:
    """Build the functions of `process` for this machine; they compile on first use.

    Args:
        process: the parts of a round.
        num_clients: C.
        chosen: the client map.
        batch_size: of local training.
    """
    place = sharding.of(chosen.client_map, num_clients)

    @functools.partial(
        jax.jit,
        out_shardings=(place.state, place.metrics),
        donate_argnums=0,  # avoids holding the states of many clients in memory twice
        compiler_options=ops.compiler_options() | backend.repeatable(),
    )
    def run(state: Any, data: Any, key: Key, places: ClientIndices) -> Any:
        # The ids exclude the empty clients that only fill a device.
        batch = RoundBatch(data, places, jnp.arange(num_clients, dtype=jnp.int32))
        new, metrics = process.round(state, batch, key, client_map=chosen.client_map)
        return _strong(new), metrics

    less = None
    if (smaller := chosen.smaller()) is not None:
        less = compile_process(process, num_clients, smaller, batch_size)
    return CompiledProcess(
        process,
        lambda state, batch, key: run(state, batch.data, key, batch.places),
        lambda state, batch, key: run.lower(state, batch.data, key, batch.places),
        process.cohort and jax.jit(functools.partial(choose, process.cohort)),
        process.algorithm.personal_params and _personal(process.algorithm.personal_params),
        chosen,
        place,
        batch_size,
        less,
    )


def initial_state(process: Process, params: Params, data: Examples) -> FederatedState:
    """Build the state before the first round, in arrays of its own that may be donated.

    Args:
        process: the parts of a round.
        params: the initial global parameters.
        data: the clients' training examples, [C, N], or their shapes and dtypes.
    """
    # Some algorithms hold the initial parameters twice, and a buffer cannot be donated twice.
    copied: FederatedState = jax.tree.map(jnp.copy, _strong(process.init(_strong(params), data)))
    return copied


def _strong(tree: Any) -> Any:
    """Give every leaf a dtype of its own, as a device has it.

    Python's numbers are weakly typed, and a round would return another type than it was given: the
    second round would be compiled anew.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)


def _personal(personal: Callable[[Any, Any], Params]) -> Callable[..., Params]:
    """Build the function from the whole state and a client's index to its personal model."""

    @jax.jit
    def of(state: FederatedState, place: ArrayLike) -> Params:
        return personal(state.server, take(state.clients, place))

    return of


def own_models(compiled: CompiledProcess, state: FederatedState) -> Callable[[int], Params]:
    """Return the function from a client's index to its personal model, which must exist."""
    assert compiled.personal is not None
    return functools.partial(compiled.personal, state)


def traffic(process: Process, state: FederatedState, data: Examples) -> communication.Traffic:
    """Count the bytes that one client receives and sends in one round.

    Args:
        process: the parts of a round.
        state: any of its states, or its shapes.
        data: the shapes of the clients' training examples, [C, N].
    """
    shape = jax.eval_shape(lambda: state)
    client = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shape.clients
    )
    return communication.traffic(process.algorithm, process.transforms, shape.server, client, data)


def round_loader(
    compiled: CompiledProcess, clients: ClientData, key: Key, last: int
) -> RoundLoader:
    """Build the loader of each round's data, up to round `last`; the caller has to close it."""
    cohort = compiled.choose and functools.partial(compiled.choose, key)
    return RoundLoader(clients, cohort, compiled.backend.client_map, compiled.batch_size, last)


def _bytes_on_a_device(data: Any) -> int:
    """Count the bytes that arrays, or their shapes with shardings, take on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(data)
    )


def fit_to_memory(
    compiled: CompiledProcess, start: Callable[[], FederatedState], clients: ClientData, key: Key
) -> CompiledProcess:
    """Return `compiled`, or its smaller variant if the device has too little memory for it.

    Compiles the round to measure its memory; compiles nothing if there is no smaller variant.

    Args:
        compiled: for the clients.
        start: builds the state before the first round; only its shapes are used.
        clients: the clients' training data.
        key: of all rounds.
    """
    if compiled.smaller is None:
        return compiled
    with contextlib.closing(round_loader(compiled, clients, key, 1)) as shapes:
        batch = shapes.largest()
    state = jax.jit(start, out_shardings=compiled.placement.state).eval_shape()
    ahead = _bytes_on_a_device(batch.data) if batch.places is not None and compiled.choose else 0
    needed = backend.bytes_needed(compiled.lower(state, batch, key))
    fits = needed + ahead <= backend.bytes_free()
    return compiled if multihost.all_of(fits) else compiled.smaller
