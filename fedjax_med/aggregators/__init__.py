"""Aggregators: ``build(*, options) -> Aggregator``, one file each."""
