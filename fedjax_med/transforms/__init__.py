"""Message transforms: ``build(*, options) -> MessageTransform``, one file each."""

from fedjax_med import lazy

__getattr__ = lazy(__name__, {})
