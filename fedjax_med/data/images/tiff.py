"""Kinds of TIFF that Pillow's decoders read, but that its table leaves out or reads wrongly."""

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

_UNSIGNED, _SIGNED, _FLOAT = (1,), (2,), (3,)  # SampleFormat
_BITS, _PHOTOMETRIC, _EXTRA, _FORMAT = 258, 262, 338, 339
# By byte order, PhotometricInterpretation (0: white is zero), SampleFormat, FillOrder,
# BitsPerSample and ExtraSamples: Pillow's mode, and how it is stored. `levels.read` inverts.
_KINDS = {
    (b"MM", 0, _UNSIGNED, 1, (16,), ()): ("I;16B", "I;16B"),
    (b"II", 0, _SIGNED, 1, (16,), ()): ("I", "I;16S"),
    (b"MM", 0, _SIGNED, 1, (16,), ()): ("I", "I;16BS"),
    (b"II", 0, _UNSIGNED, 1, (32,), ()): ("I", "I;32N"),
    (b"II", 0, _SIGNED, 1, (32,), ()): ("I", "I;32S"),
    (b"MM", 0, _SIGNED, 1, (32,), ()): ("I", "I;32BS"),
    (b"MM", 0, _UNSIGNED, 1, (32,), ()): ("I", "I;32B"),
    (b"MM", 1, _UNSIGNED, 1, (32,), ()): ("I", "I;32B"),
    (b"II", 0, _FLOAT, 1, (64,), ()): ("F", "F;64F"),
    (b"II", 1, _FLOAT, 1, (64,), ()): ("F", "F;64F"),
    (b"MM", 0, _FLOAT, 1, (64,), ()): ("F", "F;64BF"),
    (b"MM", 1, _FLOAT, 1, (64,), ()): ("F", "F;64BF"),
}
# Those that no decoder of Pillow's reads come as other numbers of as many bytes: see `stored`.
_CARRIED: dict[Any, tuple[str, str]] = {
    **{
        (order, white_is_zero, _FLOAT, 1, (16,), ()): ("I;16", "I;16")
        for order in (b"II", b"MM")
        for white_is_zero in (0, 1)
    },
    **{
        (order, 1, _UNSIGNED, 1, (16, 16), (alpha,)): ("RGBA", "RGBA")
        for order in (b"II", b"MM")
        for alpha in (0, 2)  # of ExtraSamples: something, alpha
    },
}
# libtiff swaps the bytes of a packed file, and Pillow would do so again for these.
_NATIVE = {
    "I;16BS": "I;16NS",
    "I;32BS": "I;32NS",
    "I;32B": "I;32N",
    "F;32BF": "F;32NF",
    "F;64BF": "F;64NF",
}
_KIND = {1: "unsigned", 2: "signed", 3: "floating-point"}
_COLOURS = {
    **{0: "grey, white is 0", 1: "grey", 2: "RGB", 3: "of a palette", 4: "a mask"},
    **{5: "CMYK", 6: "YCbCr", 8: "CIELab"},
}
_LIMIT = 16  # numbers of a tag that are shown


def register() -> None:
    """Let Pillow open these kinds, too."""
    for kind, modes in (_KINDS | _CARRIED).items():
        TiffImagePlugin.OPEN_INFO.setdefault(kind, modes)


def swap_once(image: Image.Image) -> None:
    """Read packed signed and floating-point levels in the order in which libtiff gives them."""
    tiles: list[Any] = getattr(image, "tile", [])
    for place, tile in enumerate(tiles):
        if tile.codec_name == "libtiff" and tile.args[0] in _NATIVE:
            tiles[place] = tile._replace(args=(_NATIVE[tile.args[0]], *tile.args[1:]))


def stored(image: Image.Image) -> npt.NDArray[Any] | None:
    """Return the levels of a loaded file that came as other numbers; None for all other files.

    Returns:
        float16 ``[H, W]``, or uint16 ``[H, W, 2]`` of grey and its alpha.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    bits, kind = tags.get(_BITS, ()), tags.get(_FORMAT, _UNSIGNED)
    # libtiff gives the numbers of packed files in the order of this machine.
    packed = image.info.get("compression") != "raw"
    big = sys.byteorder == "big" if packed else tags.prefix == b"MM"
    order = ">" if big else "<"
    if bits == (16,) and kind == _FLOAT and image.mode == "I;16":
        return np.asarray(image).view(f"{order}f2").astype(np.float16)
    if bits == (16, 16) and image.mode == "RGBA":
        both = np.asarray(image).view(f"{order}u2").astype(np.uint16)
        if tags.get(_EXTRA) != (2,):  # the second number is no alpha
            both[..., 1] = 2**16 - 1
        return both
    return None


def described(data: bytes) -> str:
    """Say what kind of TIFF a file is that cannot be opened; "" if that does not read."""
    stream = io.BytesIO(data)
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        bits = "+".join(map(str, tags.get(_BITS, (1,))[:_LIMIT]))
        kinds = {_KIND.get(one, "of a rare kind") for one in tags.get(_FORMAT, _UNSIGNED)}
        colours = _COLOURS.get(tags.get(_PHOTOMETRIC), "of rare colours")
        order = {b"II": "little", b"MM": "big"}[tags.prefix]
    except MemoryError:
        raise
    except Exception:  # the parser raises anything on broken data
        return ""
    return (
        f"a TIFF of {bits} bits a pixel ({', '.join(sorted(kinds))}; {colours}; {order}-endian), "
        "which is not read: save it as a PNG of 8 or 16 bits"
    )
