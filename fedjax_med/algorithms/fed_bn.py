"""FedBN (Li et al., ICLR 2021, "FedBN: Federated Learning on Non-IID Features via Local BN").

The normalisation layers stay at each client, where they adapt to the colours and contrasts of its
own images; all else is averaged. Here any leaves may stay, and the server never sees them.
"""

import optax

from fedjax_med.algorithms._partial import merge, split
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTrainer, train
from fedjax_med.core.algorithm import (
    ClientOutput,
    FederatedAlgorithm,
    Traits,
    client_output,
    optimizer_step,
)
from fedjax_med.core.types import Array, Examples, Key, Message, Params


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("normalisation",),
) -> FederatedAlgorithm:
    """Build FedBN: clients train all leaves together and share all but the local ones.

    The message has only the shared leaves. The global model keeps the initial values of the local
    ones; a client's model combines the shared leaves with its own.

    Args:
        training: settings of local training.
        server_optimizer: steps against the aggregated message, the shared leaves only.
        local: patterns of the leaves that stay at the clients
            (`fedjax_med.algorithms._partial.split`), by default the normalisation of the model
            ``cnn``; empty: this is FedAvg.

    Raises:
        UserError: in ``init``: a pattern in `local` matches no leaf, or all leaves match.
    """

    def init(params: Params) -> tuple[ServerState, Params]:
        shared, own = split(params, local)
        return ServerState(params, server_optimizer.init(shared)), own

    def download(server: ServerState, own: Params) -> Params:
        del own
        return split(server.params, local)[0]

    def personal_params(server: ServerState, own: Params) -> Params:
        return merge(download(server, own), own)

    def client_update(
        server: ServerState, own: Params, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        params, metrics = train(training, personal_params(server, own), examples, key, round)
        shared, kept = split(params, local)
        return client_output(download(server, own), shared, kept, examples, metrics)

    def server_update(server: ServerState, message: Message) -> ServerState:
        shared, first = split(server.params, local)
        moved, state = optimizer_step(server_optimizer, message, server.optimizer, shared)
        return ServerState(merge(moved, first), state)

    return FederatedAlgorithm(
        init,
        client_update,
        server_update,
        personal_params=personal_params,
        download=download,
        traits=Traits(steps_only=True),
    )
