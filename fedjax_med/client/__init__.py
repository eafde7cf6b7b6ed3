"""Client-side computation: batches, augmentation, losses, local training.

Public: `cross_entropy` and `mean_gradient`, the gradients that local training steps by; `Augment`
with `augmentation.build`, the random changes of training images; `poisson_capacity` and
`POISSON_TAIL`, which the accounting of private examples needs; `sgd_step_weight` for FedNova.
"""

from typing import TYPE_CHECKING

from fedjax_med import lazy

if TYPE_CHECKING:
    from fedjax_med.client.augmentation import Augment as Augment
    from fedjax_med.client.batching import POISSON_TAIL as POISSON_TAIL
    from fedjax_med.client.batching import poisson_capacity as poisson_capacity
    from fedjax_med.client.losses import cross_entropy as cross_entropy
    from fedjax_med.client.losses import mean_gradient as mean_gradient
    from fedjax_med.client.optimizers import sgd_step_weight as sgd_step_weight

_HOMES = {
    "POISSON_TAIL": "client.batching",
    "Augment": "client.augmentation",
    "cross_entropy": "client.losses",
    "mean_gradient": "client.losses",
    "poisson_capacity": "client.batching",
    "sgd_step_weight": "client.optimizers",
}
__getattr__ = lazy(__name__, _HOMES)
