"""Attacks: ``build(num_classes, *, options) -> Attack``, one file each."""
