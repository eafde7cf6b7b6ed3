"""The shelf of transforms: ``build(*, options) -> MessageTransform``, one file each."""
