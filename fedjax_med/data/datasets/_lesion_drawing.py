"""Draws a dermoscopy-like lesion in skin from a random generator alone.

Nothing here is taken from a photograph. Light is absorbed by melanin and blood as in the
Beer-Lambert law, and a *pattern* says where the lesion has more of either, or a white layer on top.
Patterns are named after structures that dermatologists look for (Kittler et al. 2016,
"Standardization of terminology in dermoscopy/dermatoscopy") and differ in structure and shape:
position, size, rotation, border and skin are drawn alike for all, and depths of colour overlap.
Lengths are in half image widths: the image spans -1 to 1. Everything is float64, so that last bits
that another processor rounds differently do not reach the 8-bit pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]  # [H, W]
Rng = np.random.Generator

_MELANIN = np.array([0.55, 0.80, 1.00])  # absorption of red, green, blue
_BLOOD = np.array([0.12, 0.85, 0.70])
_WHITE = np.array([0.93, 0.89, 0.84])
_GREY_BLUE = np.array([0.42, 0.46, 0.55])


class Lesion(NamedTuple):
    """The geometry of a lesion."""

    x: Field  # coordinates relative to its centre, rotated with it; [H, W]
    y: Field
    depth: Field  # 1 in the centre, 0 on the border, negative outside
    angle: Field  # around the centre
    radius: float  # half image widths
    pixel: float  # the side of a pixel, half image widths


class Pattern(NamedTuple):
    """The layers that a pattern adds to a lesion, each ``[H, W]``, 0 for nothing."""

    melanin: Field
    blood: Field
    white: Field  # opacity of a layer on top


def _step(value: Field, width: float | Field) -> Field:
    """Rise smoothly from 0 to 1 as `value` goes from ``-width / 2`` to ``width / 2``."""
    ramp: Field = np.clip(value / width + 0.5, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def _length(x: Field, y: Field) -> Field:
    """Compute ``np.hypot``, several times as fast."""
    return np.sqrt(x * x + y * y)


def _waves(rng: Rng, x: Field, y: Field, wavelength: float, num_waves: int = 5) -> Field:
    """Build a smooth random field of mean 0 and variance 1: plane waves in random directions."""
    total = np.zeros_like(x)
    for turn, phase, stretch in rng.uniform(0.0, 1.0, (num_waves, 3)):
        frequency = 2 * np.pi / (wavelength * (0.7 + 0.8 * stretch))
        along = np.cos(2 * np.pi * turn) * x + np.sin(2 * np.pi * turn) * y
        total += np.cos(frequency * along + 2 * np.pi * phase)
    return total * float(np.sqrt(2 / num_waves))


def _cells(rng: Rng, x: Field, y: Field, spacing: float, jitter: float) -> tuple[Field, ...]:
    """Build cells around the points of a hexagonal lattice, each moved by up to `jitter` / 2.

    Returns:
        The distances to the nearest and the second nearest point, in units of `spacing`, and a
        random number in 0 to 1, constant in each cell; each ``[H, W]``.
    """
    moves = rng.uniform(0.0, 1.0, (64, 64, 3))
    a, b = x / spacing, y / (spacing * np.sqrt(0.75))
    first, second, value = np.full_like(x, np.inf), np.full_like(x, np.inf), np.zeros_like(x)
    for row in np.floor(b).astype(int) + np.arange(-1, 2)[:, None, None]:
        odd = 0.5 * (row & 1)
        for column in np.floor(a - odd).astype(int) + np.arange(-1, 2)[:, None, None]:
            move = moves[row & 63, column & 63]
            to_x = column + odd + 0.5 + jitter * (move[..., 0] - 0.5) - a
            to_y = (row + 0.5 + jitter * (move[..., 1] - 0.5) - b) * np.sqrt(0.75)
            square = to_x * to_x + to_y * to_y
            value = np.where(square < first, move[..., 2], value)
            second = np.minimum(second, np.maximum(first, square))
            first = np.minimum(first, square)
    return np.sqrt(first), np.sqrt(second), value


def _strokes(x: Field, y: Field, strokes: list[tuple[float, ...]], soft: float) -> Field:
    """Compute the coverage, 0 to 1, by lines ``(x0, y0, x1, y1, width)`` with edges `soft` wide."""
    covered = np.full_like(x, -soft)
    for x0, y0, x1, y1, width in strokes:  # one at a time stays in cache: three times as fast
        across, up = x1 - x0, y1 - y0
        right, down = x - x0, y - y0
        along = (right * across + down * up) / (across * across + up * up)
        along = np.clip(along, 0.0, 1.0)
        right, down = right - along * across, down - along * up
        np.maximum(covered, width / 2 - _length(right, down), out=covered)
    return _step(covered, soft)


def _arborizing_vessels(rng: Rng, lesion: Lesion) -> Pattern:
    strokes: list[tuple[float, ...]] = []
    tips = []
    for _ in range(rng.integers(2, 5)):
        turn = rng.uniform(0, 2 * np.pi)
        start = lesion.radius * rng.uniform(0.6, 1.0)
        heading = turn + np.pi + rng.normal(0, 0.4)
        tips.append(
            (start * np.cos(turn), start * np.sin(turn), heading, rng.uniform(0.07, 0.10), 6)
        )
    while tips:
        x, y, heading, width, left = tips.pop()
        length = lesion.radius * rng.uniform(0.18, 0.32)
        end = (x + length * np.cos(heading), y + length * np.sin(heading))
        strokes.append((x, y, *end, width))
        if left > 1:
            tips.append((*end, heading + rng.normal(0, 0.45), width * 0.88, left - 1))
            if rng.random() < 0.55:
                side = rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 1.1)
                tips.append((*end, heading + side, width * 0.7, left - 2))
    vessels = _strokes(lesion.x, lesion.y, strokes, lesion.pixel)
    vessels = vessels * _step(lesion.depth + 0.1, 0.3)
    return Pattern(0.3 * vessels, 1.1 * vessels, 0 * vessels)


def _atypical_network(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.24, 0.34)
    first, second, shade = _cells(rng, lesion.x, lesion.y, spacing, rng.uniform(0.75, 1.0))
    width = 0.32 + 0.14 * _waves(rng, lesion.x, lesion.y, 0.5)
    lines = _step(np.clip(width, 0.1, 0.6) - (second - first), 0.25)
    lines = np.maximum(lines, 0.8 * (shade > 0.9))
    patches = _step(_waves(rng, lesion.x, lesion.y, 0.9) + 0.7, 0.5)
    lines = lines * patches * _step(lesion.depth - 0.02, 0.12)
    return Pattern(1.1 * lines, 0 * lines, 0 * lines)


def _blotch(rng: Rng, lesion: Lesion) -> Pattern:
    melanin = np.zeros_like(lesion.x)
    white = np.zeros_like(lesion.x)
    for number in range(rng.integers(2, 4)):
        turn, away = rng.uniform(0, 2 * np.pi), lesion.radius * rng.uniform(0.15, 0.6)
        x, y = lesion.x - away * np.cos(turn), lesion.y - away * np.sin(turn)
        size = lesion.radius * rng.uniform(0.35, 0.6)
        ragged = size * (1 + 0.18 * _waves(rng, x, y, 0.35))
        spot = _step(ragged - _length(x, y), 0.1) * _step(lesion.depth, 0.1)
        melanin = np.maximum(melanin, spot * rng.uniform(0.7, 1.3))
        white = np.maximum(white, 0.35 * spot * (number == 1))
    return Pattern(melanin, 0 * melanin, white)


def _cobblestone(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.21, 0.29)
    first, second, shade = _cells(rng, lesion.x, lesion.y, spacing, rng.uniform(0.3, 0.6))
    stones = _step(second - first - 0.25, 0.25) * (0.75 + 0.5 * shade)
    stones = stones * _step(lesion.depth - 0.06, 0.12)
    gaps = 0.35 * _step(lesion.depth - 0.06, 0.12) * (1 - stones).clip(0, 1)
    return Pattern(0.8 * stones, 0 * stones, gaps)


def _globular(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.21, 0.29)
    first, _, shade = _cells(rng, lesion.x, lesion.y, spacing, rng.uniform(0.4, 0.7))
    size = rng.uniform(0.24, 0.34) * (0.8 + 0.4 * shade)
    kept = shade > rng.uniform(0.35, 0.6)
    dots = _step(size - first, 0.2) * kept * _step(lesion.depth - 0.08, 0.12)
    return Pattern(1.4 * dots, 0 * dots, 0 * dots)


def _lacunar(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.40, 0.52)
    first, second, shade = _cells(rng, lesion.x, lesion.y, spacing, rng.uniform(0.5, 0.8))
    size = 0.36 + 0.14 * shade
    lakes = _step(size - first, 0.2) * _step(second - first - 0.05, 0.15) * (shade > 0.15)
    lakes = lakes * _step(lesion.depth + 0.02, 0.12)
    return Pattern(rng.uniform(0.1, 0.5) * lakes, rng.uniform(0.7, 1.1) * lakes, 0 * lakes)


def _regular_network(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.19, 0.25)
    first, second, _ = _cells(rng, lesion.x, lesion.y, spacing, rng.uniform(0.1, 0.4))
    lines = _step(0.24 - (second - first), 0.28)
    lines = lines * np.clip(1.6 * lesion.depth + 0.25, 0.0, 1.0)
    return Pattern(1.1 * lines, 0 * lines, 0 * lines)


def _scaly(rng: Rng, lesion: Lesion) -> Pattern:
    spacing = rng.uniform(0.16, 0.24)
    long = rng.uniform(1.2, 1.8)
    first, second, shade = _cells(rng, lesion.x / long, lesion.y, spacing, 1.0)
    ragged = 0.12 * _waves(rng, lesion.x, lesion.y, 0.12)
    flakes = _step(second - first - 0.12 + ragged, 0.15) * (shade > rng.uniform(0.45, 0.65))
    flakes = flakes * _step(lesion.depth, 0.1)
    red = _step(lesion.depth, 0.3) * 0.3 * (1 - flakes)
    return Pattern(0 * red, red, rng.uniform(0.5, 0.8) * flakes)


def _starburst(rng: Rng, lesion: Lesion) -> Pattern:
    count = int(rng.integers(11, 17))
    place = (lesion.angle / (2 * np.pi) + 0.5) * count
    cell = np.floor(place).astype(int) % count
    move, reach = rng.uniform(-0.2, 0.2, count), rng.uniform(0.0, 0.22, count)
    across = np.abs(place - np.floor(place) - 0.5 - move[cell]) * 2 * np.pi / count
    far = 1 - lesion.depth  # in units of the radius
    inner = rng.uniform(0.45, 0.65)
    taper = 0.15 * np.clip(1.1 + reach[cell] - far, 0.0, 0.4) / 0.4
    streaks = _step(taper - across * far - 0.04, 0.08) * _step(far - inner, 0.1)
    core = _step(inner - far, 0.15) * rng.uniform(0.2, 0.8)
    return Pattern(1.4 * np.maximum(streaks, core), 0 * core, 0 * core)


PATTERNS: dict[str, Callable[[Rng, Lesion], Pattern]] = {
    "arborizing_vessels": _arborizing_vessels,
    "atypical_network": _atypical_network,
    "blotch": _blotch,
    "cobblestone": _cobblestone,
    "globular": _globular,
    "lacunar": _lacunar,
    "regular_network": _regular_network,
    "scaly": _scaly,
    "starburst": _starburst,
}


# Least melanin and blood over the whole lesion, and the probability of a grey-blue veil.
_BASES = {
    "arborizing_vessels": (0.05, 0.1, 0.1),
    "atypical_network": (0.25, 0.0, 0.3),
    "blotch": (0.2, 0.05, 0.5),
    "cobblestone": (0.15, 0.05, 0.2),
    "globular": (0.15, 0.0, 0.1),
    "lacunar": (0.05, 0.2, 0.2),
    "regular_network": (0.15, 0.0, 0.1),
    "scaly": (0.05, 0.2, 0.0),
    "starburst": (0.3, 0.0, 0.3),
}


def _place(rng: Rng, x: Field, y: Field) -> Lesion:
    """Place the lesion at random, with a random size, rotation and irregular border."""
    radius, aspect = rng.uniform(0.6, 0.88), rng.uniform(0.8, 1.0)
    centre, turn = rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 2 * np.pi)
    x, y = x - centre[0], y - centre[1]
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    angle = np.arctan2(y / aspect, x)
    border = np.ones_like(x)
    for wave, phase in enumerate(rng.uniform(0, 2 * np.pi, 6), start=2):
        border += rng.uniform(0, 0.16) / wave * np.cos(wave * angle + phase)
    depth = 1 - _length(x, y / aspect) / (radius * border)
    return Lesion(x, y, depth, angle, radius, 2.0 / x.shape[0])


def _absorb(rng: Rng, lesion: Lesion, pattern: Pattern, base: tuple[float, ...]) -> Field:
    """Compute the colours of the skin and the lesion in it, ``[H, W, 3]`` in 0 to 1."""
    tone = np.array([0.92, 0.77, 0.67]) * np.exp(-rng.uniform(0, 0.45) * _MELANIN)
    inside = _step(lesion.depth, rng.uniform(0.1, 0.4))
    mottle = 1 + 0.22 * _waves(rng, lesion.x, lesion.y, rng.uniform(0.5, 1.2))
    melanin = inside * mottle * (base[0] + rng.uniform(0.0, 0.4)) + pattern.melanin
    blood = inside * (base[1] + rng.uniform(0.0, 0.3)) + pattern.blood
    blood = blood + 0.06 * np.abs(_waves(rng, lesion.x, lesion.y, 0.8))
    strength = rng.uniform(0.8, 1.1)
    light = np.exp(-strength * (melanin[..., None] * _MELANIN + blood[..., None] * _BLOOD))
    veil = inside * rng.uniform(0, 0.35) * (rng.random() < base[2])
    white = pattern.white[..., None]
    image = tone * light
    image = image + veil[..., None] * (_GREY_BLUE - image)
    lit: Field = image + white * (_WHITE - image)
    return lit


def _mix(rng: Rng, lesion: Lesion, name: str) -> Pattern:
    """Draw the pattern `name`, clear or faint, with a trace of another one in some lesions."""
    strength = rng.uniform(0.75, 1.1)
    fields = [strength * field for field in PATTERNS[name](rng, lesion)]
    if rng.random() < 0.2:
        other = PATTERNS[sorted(PATTERNS)[rng.integers(len(PATTERNS))]](rng, lesion)
        trace = rng.uniform(0.1, 0.4)
        fields = [field + trace * more for field, more in zip(fields, other, strict=True)]
    return Pattern(*fields)


def draw(rng: Rng, pattern: str, size: int) -> Field:
    """Draw one lesion as the eye would see it; `_dermatoscope` turns it into a photograph.

    Args:
        rng: decides everything but the pattern; numbers are drawn from it.
        pattern: a key of `PATTERNS`.
        size: the side of the image in pixels.

    Returns:
        ``[size, size, 3]``, RGB, 0 to 1.
    """
    axis = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    lesion = _place(rng, x, y)
    return _absorb(rng, lesion, _mix(rng, lesion, pattern), _BASES[pattern])
