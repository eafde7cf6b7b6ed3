"""The shelf of data sets.

``build(data_dir, cache_dir, image_size, images="memory", *, options) -> Dataset``: `images` says
where the images are while they are used, in ``memory``, on ``disk``, or where ``auto`` finds room.
"""
