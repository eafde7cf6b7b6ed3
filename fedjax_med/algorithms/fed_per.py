"""FedPer (Arivazhagan et al., 2019, "Federated Learning with Personalization Layers").

Each client has a classifier of its own on top of a body that all clients train together.
"""

import optax

from fedjax_med.algorithms import fed_bn
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import FederatedAlgorithm


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("classifier",),
) -> FederatedAlgorithm:
    """Build FedPer: clients train head and body but share only the body; FedBN with other leaves.

    Args:
        training: settings of local training.
        server_optimizer: steps against the aggregated message, the body only.
        local: patterns of the private head (`fedjax_med.algorithms._partial.split`).

    Raises:
        UserError: in ``init``: a pattern in `local` matches no leaf, or all leaves match.
    """
    return fed_bn.build(training, server_optimizer, local=local)
