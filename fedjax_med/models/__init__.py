"""Models: ``build(num_classes, *, options) -> Model``, one file each.

Also `from_nnx`, which makes a model of any flax.nnx module.
"""

from typing import TYPE_CHECKING

from fedjax_med import lazy

if TYPE_CHECKING:
    from fedjax_med.models._nnx import from_nnx as from_nnx

__getattr__ = lazy(__name__, {"from_nnx": "models._nnx"})
