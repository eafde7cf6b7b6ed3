"""The shelf of attacks: ``build(num_classes, *, options) -> Attack``, one file each."""
