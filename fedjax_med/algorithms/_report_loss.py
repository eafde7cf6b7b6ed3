"""The loss of the global model at each client, for reducers that weigh clients by it."""

from typing import Any

import jax

from fedjax_med.client.local_training import LocalTraining, mean_loss
from fedjax_med.core.round import LOSS_BEFORE, ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key

_LOSS = 105  # the client's key is split into 0 and 1 already


def wrap(algorithm: FedAlgorithm, training: LocalTraining) -> FedAlgorithm:
    """`algorithm`, whose clients first tell the mean loss of the model that they are sent.

    Args:
        algorithm: its server's state has ``params``.
        training: its gradient function tells the loss, as in training.
    """

    def client_update(
        server: Any, client: Any, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        result = algorithm.client_update(server, client, examples, round, key)
        params = server.params
        if algorithm.personal is not None and algorithm.download is not None:
            # What the server does not send is the client's own.
            params = algorithm.personal(server, client)
        loss = mean_loss(training, params, examples, jax.random.fold_in(key, _LOSS))
        return result._replace(metrics={**result.metrics, LOSS_BEFORE: loss})

    return algorithm._replace(client_update=client_update)
