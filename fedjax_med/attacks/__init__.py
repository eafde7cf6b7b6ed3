"""Attacks: ``build(num_classes, *, options) -> Attack``, one file each."""

from fedjax_med import lazy

__getattr__ = lazy(__name__, {})
