"""Message transforms: ``build(*, options) -> MessageTransform``, one file each."""
