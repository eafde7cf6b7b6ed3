"""FedPer (Arivazhagan et al., 2019, "Federated Learning with Personalization Layers").

Each client has a classifier of its own on top of a body that all train together.
"""

import optax

from fedjax_med.algorithms import fed_bn
from fedjax_med.client.local_training import LocalTraining
from fedjax_med.core.round import FedAlgorithm


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    local: tuple[str, ...] = ("classifier",),
) -> FedAlgorithm:
    """Clients train head and body together and share the body: FedBN with other leaves.

    Args:
        training: how a client trains.
        server_optimizer: steps against the reduced message, the body alone.
        local: which leaves are the private head (`fedjax_med.algorithms._partial.split`).

    Raises:
        UserError: in ``init``: `local` names what the model does not have, or all of it.
    """
    return fed_bn.build(training, server_optimizer, local=local)
