"""Colours of 16 bits, of which Pillow keeps the high byte alone.

Its unpacker for one byte order keeps the high byte of every value, and the one for the other byte
order therefore the low byte. Grey with alpha in a PNG has no such pair, but is as wide as a 32-bit
number.
"""

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_PLANAR = 284  # TIFF's PlanarConfiguration
_BITS = 258  # TIFF's BitsPerSample
_MODES = ("LA", "RGB", "RGBA", "RGBa", "CMYK")


class PlanarError(ValueError):
    """A TIFF of 16-bit colours that are stored one after the other."""


def kind(image: Image.Image) -> tuple[str, str] | None:
    """Return the mode and the byte order of an open file of 16-bit colours before it is loaded.

    Raises:
        PlanarError: Its colours are stored one after the other.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, ())
    if tags.get(_PLANAR) == 2 and isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8:
        raise PlanarError("more than 8 bits a colour, each colour by itself: save it as a PNG")
    tiles: Any = getattr(image, "tile", ())
    args: Any = tiles[0].args if tiles else ""
    raw = args if isinstance(args, str) else str(args[0]) if args else ""
    mode, _, order = raw.replace("X", "").partition(";16")
    return (mode, order) if order in ("B", "L", "N") and mode in _MODES else None


def read(data: bytes, mode: str, order: str, formats: tuple[str, ...]) -> npt.NDArray[np.uint16]:
    """Decode a file of 16-bit colours, uint16 ``[H, W, C]``.

    Args:
        data: the bytes of a file that can be decoded.
        mode: of its colours, as `kind` says.
        order: of its bytes, as `kind` says.
        formats: that may be opened.
    """
    if mode == "LA":
        both = _unpacked(data, formats, "I", "I;32B").view(np.uint32)
        return np.stack([both >> 16, both & 0xFFFF], -1).astype(np.uint16)
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    first, second = (_unpacked(data, formats, "", side) for side in ("B", "L"))
    high, low = (first, second) if big else (second, first)
    both_bytes: npt.NDArray[np.uint16] = (high.astype(np.uint16) << 8) | low
    return both_bytes


def _unpacked(data: bytes, formats: tuple[str, ...], mode: str, raw: str) -> npt.NDArray[Any]:
    """Decode a file by another unpacker: `raw`, or the file's own for the byte order `raw`."""
    image: Any
    with Image.open(io.BytesIO(data), formats=formats) as image:
        image._mode = mode or image.mode
        tiles: list[Any] = []
        for tile in image.tile:
            args: Any = tile.args
            own = args if isinstance(args, str) else args[0]
            # Of colours that are multiplied by their alpha, the unpacker would divide each byte.
            new = raw if mode else own[:-1].replace("a", "A") + raw
            tiles.append(tile._replace(args=new if isinstance(args, str) else (new, *args[1:])))
        image.tile = tiles
        image.load()
        return np.asarray(image)
