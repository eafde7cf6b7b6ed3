"""The simulation of a federation on this machine, for programs that use the library."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process, check_parts
from fedjax_med.core.trees import take
from fedjax_med.core.types import Key, Params
from fedjax_med.data.client_data import ClientData
from fedjax_med.errors import UserError, check_kind, check_name, fitting
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import (
    CompiledProcess,
    compile_process,
    fit_to_memory,
    initial_state,
)
from fedjax_med.execution.rounds import RoundResult, rounds
from fedjax_med.execution.simulation_arguments import (
    check_arguments,
    check_clients,
    check_params,
)
from fedjax_med.execution.simulation_checks import check_state, shapes_of
from fedjax_med.execution.simulation_finite import check_round

if TYPE_CHECKING:
    from fedjax_med.privacy.accounting import PrivacyBudget


class Simulation:
    """Runs the rounds of a process on this machine, with the same bits each time.

    On a GPU the rounds add in a fixed order, as those of the command do; a program's own functions
    do so with XLA_FLAGS=--xla_gpu_deterministic_ops=true in the environment.

    Args:
        process: the parts of a round.
        client_map: how a round is mapped over the clients: auto (chosen for the machine and the
            model), vmap, sequential, sharded, sharded_vmap or sharded_sequential. The result is the
            same up to rounding.
        batch_size: of local training; above 0, clients of similar size are computed side by side,
            which saves padding where clients differ in size.
        privacy: the account of each client's privacy: a process that spends more than it counts is
            refused. None: there is no such account, or it is one of examples.

    Raises:
        UserError: There is no such client map, or a part of the process is of another kind.
    """

    def __init__(
        self,
        process: Process,
        *,
        client_map: str = "auto",
        batch_size: int = 0,
        privacy: "PrivacyBudget | None" = None,
    ) -> None:
        check_kind("the process", process, Process)
        check_parts(process)
        check_name(client_map, backend.NAMES, "the client maps")
        self.process, self._privacy = process, privacy
        self._client_map, self._batch_size = client_map, batch_size
        self._compiled: dict[tuple[int, backend.Backend], CompiledProcess] = {}

    def init(self, params: Params, clients: ClientData) -> FederatedState:
        """Build the state before the first round.

        Args:
            params: the initial global parameters.
            clients: the clients' training data (`fedjax_med.data.from_arrays`).

        Raises:
            UserError: The examples do not fit the model, a parameter is not finite, or the process
                does not protect the clients as `privacy` counts.
        """
        check_clients(clients)
        check_params(params)
        with fitting(shapes_of(clients)):
            state = initial_state(self.process, params, clients.shapes())
        self._check_privacy(state)
        return state

    def rounds(
        self, state: FederatedState, clients: ClientData, key: Key, *, num_rounds: int
    ) -> Generator[RoundResult, None, None]:
        """Yield the rounds after those of `state`, up to round `num_rounds`; each runs on request.

        Args:
            state: from `init`, or of an earlier `RoundResult`; it stays usable.
            clients: the clients' training data.
            key: of all rounds, the same for a state that is trained further.
            num_rounds: the last round's number.

        Raises:
            UserError: As in `init`; or the state is of other clients, the images on disk cannot be
                read, or a client's update or loss, or the new state, is not finite. The earlier
                results stay usable.
        """
        check_arguments(state, clients, key, num_rounds)
        check_state(self.process, state, clients)
        self._check_privacy(state)
        compiled = self._for(state, clients, key)
        for result in rounds(compiled, _copy(state), clients, key, num_rounds=num_rounds):
            check_round(result, clients)
            yield result._replace(state=_copy(result.state))

    def params_of(self, state: FederatedState, client: int) -> Params:
        """Return the parameters of a client's model: its personal one, or the global one.

        Args:
            state: from `init` or a `RoundResult`.
            client: the client's index, from 0.

        Raises:
            UserError: There is no such client.
        """
        for leaf in jax.tree.leaves(state.clients)[:1]:
            if not 0 <= client < leaf.shape[0]:
                raise UserError(f"expected a client from 0 to {leaf.shape[0] - 1}, got {client}.")
        personal = self.process.algorithm.personal_params
        if personal is None:
            return state.server.params
        return personal(state.server, take(state.clients, client))

    def _check_privacy(self, state: FederatedState) -> None:
        if self._privacy is not None:
            # Here, since the accountants take seconds to load.
            from fedjax_med.privacy import composition

            composition.check_clients(self.process, state, self._privacy)

    def _for(self, state: FederatedState, clients: ClientData, key: Key) -> CompiledProcess:
        """Compile the process for as many clients, or return what was compiled before."""
        chosen = backend.choose(self._client_map, backend.workload(state.server.params))
        wanted = len(clients.indices), chosen
        if wanted not in self._compiled:
            compiled = compile_process(self.process, wanted[0], chosen, self._batch_size)
            self._compiled[wanted] = fit_to_memory(compiled, lambda: _copy(state), clients, key)
        return self._compiled[wanted]


def _copy(state: FederatedState) -> FederatedState:
    """Copy the arrays, since the loop over rounds donates those that it is given."""
    copied: FederatedState = jax.tree.map(jnp.copy, state)
    return copied
