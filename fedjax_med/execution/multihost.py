"""Runs the same program in several processes, over the devices of all of them.

Every process runs the same rounds (JAX's multi-controller model). The first process also reads and
writes the workdir and prints. The processes agree through their coordinator's key-value store, not
through the devices, so that waiting compiles nothing and has no time limit.
"""

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed as runtime
from jax.experimental import multihost_utils

from fedjax_med.errors import UserError
from fedjax_med.execution import watch
from fedjax_med.execution.relay import Relay

T = TypeVar("T")

_POLL = 1000  # milliseconds between two checks for signals while waiting
_exchanges = itertools.count()


def active() -> bool:
    """Return whether there are other processes."""
    return bool(jax.distributed.is_initialized()) and jax.process_count() > 1


def is_main() -> bool:
    """Return whether this is the process that writes and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def _time_limit(seconds: float, message: str) -> Iterator[None]:
    """End the process with `message` after `seconds`; JAX would end it in C++, without one."""

    def end() -> None:
        os.write(2, f"fedjax-med: {message}\n".encode())
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def initialise(
    coordinator: str, num_processes: int | None, process_id: int | None, seconds: float
) -> None:
    """Join the other processes; has to precede the first use of a device in JAX.

    Args:
        coordinator: host and port of the first process, or "" to ask the cluster: Slurm, Open MPI,
            Kubernetes (with the package ``kubernetes``) or a TPU pod.
        num_processes: the number of processes; None with "".
        process_id: of this process; None with "".
        seconds: time limit for all processes to join.

    Raises:
        UserError: No such cluster is found, or the coordinator's port is taken.
    """
    # `fedjax_med.run.signals` handles orderly stops; JAX's own service would catch the signals.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the cluster's first process"
    late = (
        f"not all processes met at {where} within {seconds:g} s: is the address that of process "
        "0, are all started, is the port open? (--connect_timeout=SECONDS)"
    )
    atexit.register(watch.say_bye)  # before JAX's own: called when all have met to end
    relay = Relay(coordinator) if coordinator and process_id else None
    try:
        with _time_limit(seconds, late):
            jax.distributed.initialize(
                relay.address if relay else coordinator or None,
                num_processes,
                process_id,
                # Even if a scheduler's variables name devices: the flags decide.
                cluster_detection_method="deactivate" if coordinator else None,
                initialization_timeout=int(seconds) + 60,
                shutdown_timeout_seconds=60,
            )
    except (ValueError, RuntimeError) as error:
        hint = "" if coordinator else " Give --coordinator, --num_processes and --process_id."
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the processes cannot be joined at {where}: {said}{hint}") from error
    if active():
        state = runtime.global_state
        address = coordinator or str(state.coordinator_address)
        if watch.begin(state.client, jax.process_index(), address) and relay:
            relay.hold()
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


def leave(code: int, patience: float = 0) -> int:
    """Return the exit code, or exit at once where waiting for other processes would be in vain.

    Args:
        code: the exit code.
        patience: seconds to wait for the others to leave as well.
    """
    if code and active():
        client: Any = runtime.global_state.client
        if patience:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                client.wait_at_barrier("leave", int(1000 * patience))
                watch.say_bye()
                return code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _exchange(mine: str) -> list[str]:
    """Return the texts of all processes, in their order; wait for all of them."""
    if not active():
        return [mine]
    client: Any = runtime.global_state.client
    number, me = next(_exchanges), jax.process_index()

    def wait_for(process: int) -> str:
        while True:
            try:
                return str(client.blocking_key_value_get(f"exchange/{number}/{process}", _POLL))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    client.key_value_set(f"exchange/{number}/{me}", json.dumps(mine))
    every = [json.loads(wait_for(process)) for process in range(jax.process_count())]
    # A process that takes part in this exchange has finished reading the previous one.
    client.key_value_delete(f"exchange/{number - 1}/{me}")
    return every


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Fail in all processes if the body fails in any; wait for all of them.

    Raises:
        UserError: The body failed in another process.
    """
    if not active():
        yield
        return
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = _exchange("" if error is None else str(error) or type(error).__name__)
    failed = [process for process, one in enumerate(said) if one]
    if error is not None and failed[0] == jax.process_index():
        raise error
    if failed:
        raise UserError(f"ended, since process {failed[0]} could not go on.") from error


def on_main(function: Callable[..., T], *arguments: Any) -> T | None:
    """Call `function` in the first process only and return its result there; the others wait."""
    result = None
    with together():
        if is_main():
            result = function(*arguments)
    return result


def main_first(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` in the first process, then in the others; return its result."""
    result = on_main(function, *arguments)
    with together():
        if not is_main():
            result = function(*arguments)
    return result  # type: ignore[return-value]


def check_same(values: dict[str, Any]) -> None:
    """Refuse `values` (of JSON) that are not the same in every process.

    Raises:
        UserError: The message names the first value that differs.
    """
    every = [json.loads(one) for one in _exchange(json.dumps(values))]
    with together():
        for process, name in itertools.product(range(len(every)), values):
            first, other = every[0][name], every[process][name]
            if first != other:
                raise UserError(
                    f"expected the same {name} in every process, got {first!r} in process 0 and "
                    f"{other!r} in process {process}."
                )


def text_from_main(function: Callable[[], str]) -> str:
    """Call `function` in the first process only; return its text in every process."""
    return _exchange(on_main(function) or "")[0]


def first_signal(received: list[int]) -> int:
    """Return a signal that any process has received so far, the same in all; 0 if none."""
    return max(int(one) for one in _exchange(str(received[0] if received else 0)))


def all_of(value: bool) -> bool:
    """Return whether `value` is true in every process."""
    return "" not in _exchange("yes" if value else "")


def place(tree: Any, sharding: Any) -> Any:
    """Put `tree`, the same in every process, on the devices; each process places its own shards.

    Args:
        tree: arrays.
        sharding: of all arrays, or a tree of shardings that is a prefix of `tree`.
    """
    if not active():
        return jax.device_put(tree, sharding)

    def one(where: jax.sharding.Sharding, leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

    return jax.tree.map(one, jax.tree.broadcast(sharding, tree), tree)


def gather(tree: Any) -> Any:
    """Return `tree` with the shards of all processes; every process has to call it."""
    if not active():
        return tree
    return jax.tree.map(
        lambda leaf: np.asarray(
            leaf
            if leaf.is_fully_replicated
            else multihost_utils.process_allgather(leaf, tiled=True)
        ),
        tree,
    )


def local(tree: Any) -> Any:
    """Return replicated arrays as they lie on the first device of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if active() else tree


def from_main(tree: Any) -> Any:
    """Return the first process's `tree`, bit for bit; in all, `tree` must have the same shapes."""
    if not active():
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    flat = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves]
    joined = multihost_utils.broadcast_one_to_all(np.concatenate(flat))
    parts = np.split(np.asarray(joined), np.cumsum([len(one) for one in flat])[:-1])
    same = [
        part.copy().view(leaf.dtype).reshape(leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, same)
