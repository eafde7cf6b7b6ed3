"""Algorithms: ``build(training, server_optimizer, *, options) -> FederatedAlgorithm``.

Also `report_loss` and `with_ema`, which add to any of them, and the server optimizers
`fed_adagrad`, `fed_adam` and `fed_yogi`.
"""

from typing import TYPE_CHECKING

from fedjax_med import lazy

if TYPE_CHECKING:
    from fedjax_med.algorithms._adaptive import fed_adagrad as fed_adagrad
    from fedjax_med.algorithms._adaptive import fed_adam as fed_adam
    from fedjax_med.algorithms._adaptive import fed_yogi as fed_yogi
    from fedjax_med.algorithms._ema import with_ema as with_ema
    from fedjax_med.algorithms._report_loss import report_loss as report_loss

_HOMES = {
    "fed_adagrad": "algorithms._adaptive",
    "fed_adam": "algorithms._adaptive",
    "fed_yogi": "algorithms._adaptive",
    "report_loss": "algorithms._report_loss",
    "with_ema": "algorithms._ema",
}
__getattr__ = lazy(__name__, _HOMES)
