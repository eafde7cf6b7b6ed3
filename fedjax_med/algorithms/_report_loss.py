"""Reports the global model's loss at each client, for aggregators that weight clients by it."""

from typing import Any

import jax

from fedjax_med.client.local_training import LocalTrainer, mean_loss
from fedjax_med.core.algorithm import LOSS_BEFORE, ClientOutput, FederatedAlgorithm
from fedjax_med.core.random import Stream
from fedjax_med.core.types import Array, Examples, Key


def report_loss(algorithm: FederatedAlgorithm, training: LocalTrainer) -> FederatedAlgorithm:
    """Make the clients of `algorithm` also report the mean loss of the model that they receive.

    Args:
        algorithm: its server state has a field ``params``.
        training: its gradient function reports the loss, as in training.
    """

    def client_update(
        server: Any, client: Any, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        result = algorithm.client_update(server, client, examples, round, key)
        params = server.params
        if algorithm.personal_params is not None and algorithm.download is not None:
            # Leaves that the server does not send are the client's own.
            params = algorithm.personal_params(server, client)
        loss = mean_loss(training, params, examples, jax.random.fold_in(key, Stream.LOSS))
        return result._replace(metrics={**result.metrics, LOSS_BEFORE: loss})

    return algorithm._replace(client_update=client_update)
