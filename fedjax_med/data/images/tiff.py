"""Kinds of TIFF that Pillow's decoders read, but that its table leaves out or reads wrongly."""

from typing import Any

from PIL import Image, TiffImagePlugin

_UNSIGNED, _SIGNED, _FLOAT = (1,), (2,), (3,)  # SampleFormat
# By byte order, PhotometricInterpretation (0: white is zero), SampleFormat, FillOrder,
# BitsPerSample and ExtraSamples: Pillow's mode, and how it is stored. `levels.read` inverts.
_KINDS = {
    (b"MM", 0, _UNSIGNED, 1, (16,), ()): ("I;16B", "I;16B"),
    (b"II", 0, _SIGNED, 1, (16,), ()): ("I", "I;16S"),
    (b"MM", 0, _SIGNED, 1, (16,), ()): ("I", "I;16BS"),
    (b"II", 0, _UNSIGNED, 1, (32,), ()): ("I", "I;32N"),
    (b"II", 0, _SIGNED, 1, (32,), ()): ("I", "I;32S"),
    (b"MM", 0, _SIGNED, 1, (32,), ()): ("I", "I;32BS"),
    (b"II", 0, _FLOAT, 1, (64,), ()): ("F", "F;64F"),
    (b"II", 1, _FLOAT, 1, (64,), ()): ("F", "F;64F"),
}
# libtiff swaps the bytes of a packed file, and Pillow would do so again for these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def register() -> None:
    """Let Pillow open these kinds, too."""
    for kind, modes in _KINDS.items():
        TiffImagePlugin.OPEN_INFO.setdefault(kind, modes)


def swap_once(image: Image.Image) -> None:
    """Read packed signed and floating-point levels in the order in which libtiff gives them."""
    tiles: list[Any] = getattr(image, "tile", [])
    for place, tile in enumerate(tiles):
        if tile.codec_name == "libtiff" and tile.args[0] in _NATIVE:
            tiles[place] = tile._replace(args=(_NATIVE[tile.args[0]], *tile.args[1:]))
