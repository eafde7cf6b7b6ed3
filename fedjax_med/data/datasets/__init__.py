"""Data sets, one per file.

``build(data_dir, cache_dir, image_size, images="memory", crop="centre", *, options) -> Dataset``:
`images` says where the images are kept during use: in ``memory``, on ``disk``, or ``auto`` (by the
memory size); `crop`, which may be missing, how images become square.
"""
