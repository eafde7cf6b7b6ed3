"""Differential privacy: noise, clipping, and the accounting of epsilon.

Public: `private_grad_fn` (each example is protected), `dp_mean.build` (each client is protected)
and `accounting`.
"""

from typing import TYPE_CHECKING

from fedjax_med import lazy

if TYPE_CHECKING:
    from fedjax_med.privacy.dp_sgd import private_grad_fn as private_grad_fn

__getattr__ = lazy(__name__, {"private_grad_fn": "privacy.dp_sgd"})
