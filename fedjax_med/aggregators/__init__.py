"""The shelf of reducers: ``build(*, options) -> Reducer``, one file each."""
