"""Levels of more than 8 bits: which of them is black, and which is white.

The file's tags decide if they say so. Otherwise the whole data set, of all hospitals, has one
scale, never a single image its own: the same tissue would differ from image to image.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedjax_med.data.images import tiff

RANGE_FLAG = "--config.dataset.options.range"

_SIGNED, _FLOAT = 2, 3  # of TIFF's SampleFormat
_WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
_BITS, _PHOTOMETRIC, _MAXIMUM, _FORMAT, _S_MINIMUM, _S_MAXIMUM = 258, 262, 281, 339, 340, 341
_ROWS = 64  # rows scaled at a time, since it is done in float64


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason in a few words."""


class RangeError(ImageError):
    """An image whose levels are signed or floating-point, without a range to show them in."""


class Scale(NamedTuple):
    """Black and white of all files of a data set whose tags do not tell them."""

    white: int = 2**16 - 1  # of unsigned levels, whose black is 0
    range: tuple[float, float] | None = None  # black and white of all levels, if given
    white_of_colours: int = 2**16 - 1  # of files with several values a pixel


FULL = Scale()


class Levels(NamedTuple):
    """The levels of an image that do not go from 0 to 255, and what its file says about them."""

    stored: npt.NDArray[Any]  # [H, W], or [H, W, C] of several values a pixel
    tagged: tuple[float, float] | None  # its black and white
    inverted: bool = False  # whether black is above white
    mode: str = "L"  # Pillow's
    carried: bool = False  # whether Pillow's image holds other numbers (`tiff.stored`)

    @property
    def unsigned(self) -> bool:
        """Tell whether 0 is the least level there can be."""
        return self.stored.dtype.kind == "u"

    @property
    def colours(self) -> npt.NDArray[Any]:
        """Return the levels without those of alpha."""
        return self.stored[..., :-1] if self.mode[-1] in "Aa" else self.stored

    def usual(self, scale: Scale) -> bool:
        """Tell whether these are colours of all 16 bits, of which the high 8 are enough."""
        given = self.tagged or scale.range
        return (
            self.mode != "L"
            and not (given or self.carried)
            and scale.white_of_colours == FULL.white
        )


def agreed_white(greatest: int) -> int:
    """Return the white of a data set whose greatest level is `greatest`: a power of two, less 1."""
    return int(2 ** max(greatest.bit_length(), 8) - 1)


def read(image: Image.Image) -> Levels | None:
    """Read the grey levels of an open file before it is turned; None if they have 8 bits.

    Raises:
        ImageError: A level is not a finite number.
    """
    tags: Any = getattr(image, "tag_v2", {})
    kind = _number(tags, _FORMAT)
    carried = tiff.stored(image)
    if carried is not None and carried.ndim == 3:
        return of_colours(image, carried, "LA")._replace(carried=True)
    if carried is not None:
        stored: npt.NDArray[Any] = carried
    elif image.mode == "L" and kind == _SIGNED:
        stored = np.asarray(image).view(np.int8)
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        stored = np.asarray(image)
        if image.mode == "I" and kind != _SIGNED:
            stored = stored.view(np.uint32)
    else:
        return _of_8_bits(image, tags)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise ImageError("holds values that are not finite numbers")
    inverted = _number(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO
    return Levels(stored, _tagged(tags, stored.dtype.kind == "u"), inverted)


def _of_8_bits(image: Image.Image, tags: Any) -> Levels | None:
    """Return the levels of 8 bits whose tags say that white is below 255, else None."""
    tagged = _tagged(tags, unsigned=True)
    if image.mode not in ("L", "RGB") or _number(tags, _BITS) != 8 or not tagged:
        return None
    if not tagged[1] < 255:
        return None
    inverted = _number(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO
    stored = np.asarray(image)  # which Pillow has inverted
    return Levels(255 - stored if inverted else stored, tagged, inverted, image.mode)


def of_colours(image: Image.Image, stored: npt.NDArray[np.uint16], mode: str) -> Levels:
    """Build the levels of an open file of 16-bit colours, uint16 ``[H, W, C]``."""
    tags: Any = getattr(image, "tag_v2", {})
    clear = image.info.get("transparency")
    if mode == "RGB" and isinstance(clear, tuple):  # this colour of a PNG is transparent
        alpha = np.where((stored == np.array(clear)).all(-1), 0, FULL.white)
        stored = np.concatenate([stored, alpha[..., None].astype(np.uint16)], -1)
        mode = "RGBA"
    return Levels(stored, _tagged(tags, unsigned=True), mode=mode)


def _tagged(tags: Any, unsigned: bool) -> tuple[float, float] | None:
    """Return the black and the white that a file's tags give."""
    low, high = _number(tags, _S_MINIMUM), _number(tags, _S_MAXIMUM)
    if unsigned:
        low, bits = 0.0, _number(tags, _BITS)
        high = _number(tags, _MAXIMUM) if high is None else high
        if high is None and bits not in (None, 8, 16, 32):  # these say how a level is stored
            high = 2.0 ** (bits or 0) - 1
    if low is None or high is None or not low < high:
        return None
    return low, high


def _number(tags: Any, tag: int) -> float | None:
    """Return the first value of a TIFF tag; None if it is absent or no finite number."""
    value = tags.get(tag)
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def to_8_bit(levels: Levels, scale: Scale) -> tuple[npt.NDArray[np.uint8], str]:
    """Scale levels from black to white to 0 to 255; levels beyond are cut off.

    Returns:
        uint8 of the same shape, and a text that says which black and white were used, and why.

    Raises:
        RangeError: Nothing gives the range of signed or floating-point levels.
    """
    if levels.tagged:
        (low, high), why = levels.tagged, "by the files' tags"
    elif scale.range:
        (low, high), why = scale.range, f"by {RANGE_FLAG}"
    elif levels.unsigned:
        (low, high), why = (
            (0.0, float(scale.white if levels.mode == "L" else scale.white_of_colours)),
            "the power of two that the whole set agrees on",
        )
    else:
        raise RangeError(f"signed or floating-point grey levels, and no {RANGE_FLAG}=BLACK,WHITE")
    scaled = _scaled(levels.colours, low, high)
    if levels.mode[-1] in "Aa":  # opaque is either white or all bits
        alpha = levels.stored[..., -1:]
        opaque = high if alpha.max() <= high else FULL.white
        scaled = np.concatenate([scaled, _scaled(alpha, 0, opaque)], -1)
    how = "white to black" if levels.inverted else "black to white"
    return 255 - scaled if levels.inverted else scaled, f"{low:g} to {high:g} ({how}), {why}"


def _scaled(stored: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = np.empty(stored.shape, np.uint8)
    for start in range(0, len(scaled), _ROWS):
        values = stored[start : start + _ROWS].astype(np.float64)
        scaled[start : start + _ROWS] = np.rint(
            np.clip((values - low) / (high - low) * 255, 0, 255)
        )
    return scaled
