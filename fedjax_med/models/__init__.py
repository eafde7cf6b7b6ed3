"""Models: ``build(num_classes, *, options) -> Model``, one file each."""

from fedjax_med.models._nnx import from_nnx

__all__ = ["from_nnx"]
