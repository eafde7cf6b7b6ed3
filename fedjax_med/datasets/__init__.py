"""The shelf of data sets: ``build(data_dir, cache_dir, image_size, *, options) -> Dataset``."""
