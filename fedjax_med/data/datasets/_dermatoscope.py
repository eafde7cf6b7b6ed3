"""Turns a drawn lesion into a photograph: hairs, a ruler, gel bubbles, light, sensor noise.

These are drawn alike for every class, so that none helps to distinguish the classes. Lengths are
in half image widths: the image spans -1 to 1.
"""

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]  # [H, W], or [H, W, 3] for an image
Rng = np.random.Generator


def _step(value: Field, width: float) -> Field:
    """Rise smoothly from 0 to 1 as `value` goes from ``-width / 2`` to ``width / 2``."""
    ramp: Field = np.clip(value / width + 0.5, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def _length(x: Field, y: Field) -> Field:
    """Compute ``np.hypot``, several times as fast."""
    return np.sqrt(x * x + y * y)


def _hairs(rng: Rng, x: Field, y: Field, image: Field) -> Field:
    """Draw dark or light hairs on some images: long arcs of large circles."""
    shade = rng.choice((0.12, 0.2, 0.3, 0.75)) * np.array([1.0, 0.85, 0.7])
    for _ in range(rng.integers(1, 5) if rng.random() < 0.5 else 0):
        turn, radius, offset = (
            rng.uniform(0, 2 * np.pi),
            rng.uniform(1.5, 6),
            rng.uniform(-0.9, 0.9),
        )
        along = np.cos(turn) * x + np.sin(turn) * y
        across = np.cos(turn) * y - np.sin(turn) * x
        distance = np.abs(_length(along, across - offset - radius) - radius)
        ends = _step(along - rng.uniform(-1.4, 0.2), 0.2)
        hair = _step(rng.uniform(0.01, 0.03) - distance, 2.0 / x.shape[0]) * ends
        image = image + (rng.uniform(0.6, 0.95) * hair)[..., None] * (shade - image)
    return image


def _ruler(rng: Rng, x: Field, y: Field, image: Field) -> Field:
    """Draw the ticks of a ruler along one side of some images."""
    spacing, place, phase = rng.uniform(0.15, 0.25), rng.uniform(0.72, 0.95), rng.uniform()
    side, shown = rng.integers(4), rng.random() < 0.2
    along, out = ((x, y), (y, x), (x, -y), (y, -x))[side]
    if not shown:
        return image
    tick = along / spacing + phase
    long = np.where(np.round(tick) % 5 == 0, 0.14, 0.07)
    off = np.abs(tick - np.round(tick)) * spacing
    pixel = 2.0 / x.shape[0]
    mark = _step(0.016 - off, pixel) * _step(out - place + long, pixel) * _step(place - out, pixel)
    return image * (1 - 0.8 * mark[..., None])


def _bubbles(rng: Rng, x: Field, y: Field, image: Field) -> Field:
    """Draw rings and highlights of bubbles in the immersion gel on some images."""
    for _ in range(rng.integers(1, 6) if rng.random() < 0.35 else 0):
        (left, top), size = rng.uniform(-0.95, 0.95, 2), rng.uniform(0.03, 0.1)
        distance = _length(x - left, y - top)
        ring = _step(0.02 - np.abs(distance - size), 0.05)
        spark = _step(0.03 - _length(x - left + size / 3, y - top + size / 3), 0.05)
        image = image + (0.45 * ring + 0.6 * spark).clip(0, 0.9)[..., None] * (1 - image)
    return image


def _expose(rng: Rng, x: Field, y: Field, image: Field) -> Field:
    """Add uneven light, a dark rim, white balance, exposure, blur and sensor noise."""
    turn = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.18) * (np.cos(turn) * x + np.sin(turn) * y)
    light = light - rng.uniform(0, 0.16) * (x * x + y * y)
    rim = _step(rng.uniform(1.15, 1.3) - _length(x, y), 0.06) if rng.random() < 0.2 else 1.0
    balance = rng.uniform(0.85, 1.08) * rng.uniform(0.94, 1.06, 3)
    image = image * (light * rim)[..., None] * balance
    share = rng.uniform(0.0, 0.2)
    for axis in (0, 1):
        pad = [(1, 1) if other == axis else (0, 0) for other in range(3)]
        wide = np.pad(image, pad, mode="edge")
        before, after = np.split(wide, [2], axis)[1], np.split(wide, [-2], axis)[0]
        image = (1 - 2 * share) * image + share * (before + after)
    return image + rng.uniform(0.006, 0.022) * rng.standard_normal(image.shape)


def photograph(rng: Rng, image: Field) -> npt.NDArray[np.uint8]:
    """Turn a drawn lesion into a photograph.

    Args:
        rng: decides all effects; numbers are drawn from it.
        image: ``[size, size, 3]``, RGB, 0 to 1.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    size = image.shape[0]
    axis = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for change in (_hairs, _ruler, _bubbles, _expose):
        image = change(rng, x, y, image)
    return np.round(image.clip(0.0, 1.0) * 255.0).astype(np.uint8)
