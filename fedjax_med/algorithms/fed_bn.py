"""FedBN (Li et al., ICLR 2021, "FedBN: Federated Learning on Non-IID Features via Local BN").

The layers that normalise stay at each client, where they follow the colours and contrasts of its
own images; all else is averaged. Here any leaves may stay, and the server never sees them.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms._partial import join, split
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTraining, train
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("normalisation",),
) -> FedAlgorithm:
    """Clients train all leaves together and share all but the local ones.

    The message has the shared leaves alone. The global model keeps the first values of the others;
    a client's model is the shared leaves with its own.

    Args:
        training: how a client trains.
        server_optimizer: steps against the reduced message, the shared leaves alone.
        local: which leaves stay at the clients (`fedjax_med.algorithms._partial.split`); the
            normalisation of the model ``cnn`` by default. Without any this is FedAvg.

    Raises:
        UserError: in ``init``: `local` names what the model does not have, or all of it.
    """

    def init(params: Params) -> tuple[ServerState, Params]:
        shared, own = split(params, local)
        return ServerState(params, server_optimizer.init(shared)), own

    def download(server: ServerState, own: Params) -> Params:
        del own
        return split(server.params, local)[0]

    def personal(server: ServerState, own: Params) -> Params:
        return join(download(server, own), own)

    def client_update(
        server: ServerState, own: Params, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        params, metrics = train(training, personal(server, own), examples, key, round)
        shared, kept = split(params, local)
        delta = jax.tree.map(jnp.subtract, download(server, own), shared)
        return ClientResult(delta, kept, jnp.sum(examples.mask, dtype=jnp.float32), metrics)

    def server_update(server: ServerState, message: Message) -> ServerState:
        shared, first = split(server.params, local)
        updates, state = server_optimizer.update(message, server.optimizer, shared)
        return ServerState(join(optax.apply_updates(shared, updates), first), state)

    return FedAlgorithm(init, client_update, server_update, personal=personal, download=download)
