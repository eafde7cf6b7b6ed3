"""One image file -> upright RGB uint8, its square thumbnail and its perceptual hash."""

import contextlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from fedjax_med.data.images import jpeg, levels, png, tiff, wide
from fedjax_med.data.images.levels import FULL, Levels, Scale
from fedjax_med.data.images.levels import ImageError as ImageError
from fedjax_med.data.images.levels import RangeError as RangeError

# Only the formats of `fedjax_med.data.images.listing.SUFFIXES`: of Pillow's others, one starts a
# program (EPS), and all are open to attack. MPO, which phones write, is read as JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
LIMIT = 2**28  # bytes of a file: as many as the pixels of the largest image take as RGB
MAX_PIXELS = 2**28 // 3  # 89 million, Pillow's own limit, which other code may lift in this process
MIN_SIDE = 16  # pixels; anything smaller is an icon or an accident, not a photograph

CROPS = ("centre", "pad", "stretch")  # ways to make an image square

_LARGE = 2**24  # pixels; images above this are decoded one at a time, to bound the memory

_large_lock = threading.Lock()
# Pillow warns and logs for each faulty tag of a file; fatal faults are raised as well.
_SILENT = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_warnings_lock = threading.Lock()
logging.getLogger("PIL").setLevel(logging.CRITICAL)
tiff.register()
# TIFF compressions of photographs. For a fax, libtiff prints each bad line on stderr.
_PACKED = {"raw", "tiff_lzw", "tiff_jpeg", "jpeg", "tiff_adobe_deflate", "tiff_deflate"} | {
    *("packbits", "lzma", "zstd", "webp"),
}


_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCED_OR_MASK = 1 | 4  # bits of TIFF's NewSubfileType
_NEW_SUBFILE_TYPE = 254
_PAGES = 16  # of a TIFF, at most, that may be reduced copies or masks of the first


T = TypeVar("T")


class Decoded(NamedTuple):
    """An image, and how its grey levels were scaled."""

    image: npt.NDArray[np.uint8]  # [H, W, 3], upright RGB
    levels: str  # the black and white of an image of more than 8 bits, or ""


def decode(data: bytes, scale: Scale = FULL) -> npt.NDArray[np.uint8]:
    """Decode an image file as `read` does, and return the image alone."""
    return read(data, scale).image


def read(data: bytes, scale: Scale = FULL) -> Decoded:
    """Decode an image file of any colour mode to upright RGB.

    The EXIF orientation is applied. Transparent pixels are laid over white. Levels of more
    than 8 bits are scaled as the file's tags say, otherwise by `scale`. Broken metadata that the
    pixels do not need is ignored.

    Args:
        data: the bytes of the file.
        scale: of all files of the data set.

    Raises:
        ImageError: The file is not an image, broken, truncated, smaller than 16 pixels on a side,
            so large that Pillow takes it for a decompression bomb, an animation or of several
            pages. `RangeError`: its levels are signed or floating-point, and have no range.
    """
    return _use(data, lambda image, found: _upright(image, found, scale))


def greatest_level(data: bytes) -> tuple[int, int]:
    """Return the greatest level in a file that does not say which one is white; else 0.

    Returns:
        That of an image of one value a pixel, and that of colours or grey with alpha.

    Raises:
        RangeError: Its levels are signed or floating-point.
        ImageError: It cannot be decoded.
    """

    def greatest(image: Image.Image, found: Levels | None) -> tuple[int, int]:
        if found is None or found.tagged:
            return 0, 0
        if not found.unsigned:
            raise RangeError
        level = int(found.colours.max())
        return (level, 0) if found.mode == "L" else (0, level)

    return _use(data, greatest)


def _use(data: bytes, use: Callable[[Image.Image, Levels | None], T]) -> T:
    """Return what `use` makes of the loaded image, if necessary without its broken metadata."""
    if not data:
        raise ImageError("the file is empty")
    try:
        with _open(data) as image, _turn(image):
            colours = wide.kind(image)
            image.load()
            if colours is None:
                return use(image, levels.read(image))
            stored = wide.read(data, *colours, FORMATS)
            return use(image, levels.of_colours(image, stored, colours[0]))
    except (ImageError, ImportError, MemoryError):  # the last two are not the file's fault
        raise
    except Exception as error:  # the decoders raise anything on broken data, struct.error included
        mended = _without_broken_metadata(data)
        if mended is None:
            raise ImageError(_reason(error, data)) from error
    return _use(mended, use)


def _without_broken_metadata(data: bytes) -> bytes | None:
    """Leave out what may keep the pixels from being read; None if there is no such thing."""
    for mend in (
        png.without_broken_chunks,
        png.without_optional_chunks,
        jpeg.without_short_segments,
    ):
        if (mended := mend(data)) != data:
            return mended
    return None


def may_have_levels(head: bytes) -> bool:
    """Tell from the first 32 bytes of a file whether it may have levels of more than 8 bits."""
    deep_png = head.startswith(png.SIGNATURE) and head[24:25] == b"\x10"
    return deep_png or head[:4] in TiffImagePlugin.PREFIXES


def _upright(image: Image.Image, found: Levels | None, scale: Scale) -> Decoded:
    orientation = _orientation(image)
    rgb, how = _to_rgb(image, found, scale)
    if orientation in _TURNS:
        rgb = np.asarray(Image.fromarray(rgb).transpose(_TURNS[orientation]))
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} pixels; expected at least {MIN_SIDE} on the shorter side"
        )
    return Decoded(rgb, how)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; that of an upright image if the metadata is broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # the parser raises anything, too
        return 1


def _hush() -> None:
    """Silence warnings of Pillow's modules in this process, until filters are reset.

    Filters belong to the whole process: a filter set around each image would be removed by the
    next thread that finishes.
    """
    with _warnings_lock:
        if warnings.filters[:1] != [_SILENT]:
            warnings.filterwarnings("ignore", module=_SILENT[3].pattern)


def _open(data: bytes) -> Image.Image:
    _hush()
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format == "TIFF" and image.info.get("compression") not in _PACKED:
        raise ImageError("packed as no photograph is (a fax, or of a rare kind): save it anew")
    # Not left to Pillow's warning, which another thread's filters may ignore.
    if image.width * image.height > min(Image.MAX_IMAGE_PIXELS or MAX_PIXELS, MAX_PIXELS):
        raise Image.DecompressionBombError
    if _has_several(image):
        raise ImageError("holds several images: save the one that counts as a file of its own")
    tiff.swap_once(image)
    return image


def _has_several(image: Image.Image) -> bool:
    """Tell whether a file is an animation or has several full pages.

    Reduced copies and masks of the first page do not count, and neither does what phones add to a
    JPEG.
    """
    if image.format in ("JPEG", "MPO") or not getattr(image, "is_animated", False):
        return False
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return True
    for page in range(1, _PAGES):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return False
        if not int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK:
            break
    return True


def _turn(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    """Return a lock that lets only one large image be decoded at a time; none for small ones."""
    return _large_lock if image.width * image.height > _LARGE else contextlib.nullcontext()


def _to_rgb(
    image: Image.Image, found: Levels | None, scale: Scale
) -> tuple[npt.NDArray[np.uint8], str]:
    how = ""
    if found is not None and not found.usual(scale):
        scaled, how = levels.to_8_bit(found, scale)
        if found.mode == "L":
            return np.repeat(scaled[..., None], 3, axis=-1), how
        image = Image.frombytes(found.mode, image.size, scaled.tobytes())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")), how


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        is_tiff = data[:4] in TiffImagePlugin.PREFIXES
        return (is_tiff and tiff.described(data)) or "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or MAX_PIXELS:,} pixels; store it smaller"
    return " ".join(str(error).split()) or type(error).__name__


def resize(image: npt.NDArray[np.uint8], size: int, crop: str = "centre") -> npt.NDArray[np.uint8]:
    """Make an image square and scale it, with antialiasing (Lanczos).

    Args:
        image: uint8 `[H, W, 3]`.
        size: the side of the result, in pixels.
        crop: ``centre`` keeps the central square, ``pad`` the whole image, between black bars;
            both keep the aspect ratio, since lesions are judged by their shape. ``stretch`` gives
            it up, and keeps the whole image without bars.

    Returns:
        uint8 `[size, size, 3]`.
    """
    height, width = image.shape[:2]
    if crop == "centre":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    tall, wide = size, size
    if crop == "pad":
        longest = max(height, width)
        tall, wide = (max(round(size * side / longest), 1) for side in (height, width))
    scaled = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.LANCZOS))
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - tall) // 2, (size - wide) // 2
    square[top : top + tall, left : left + wide] = scaled
    return square


def perceptual_hash(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Compute a 256-bit difference hash, nearly equal for re-encoded, rescaled, recoloured copies.

    Args:
        image: uint8 `[H, W, 3]`.

    Returns:
        uint8 `[32]`: bit `16 * row + column`, most significant first, says whether the grey level
        rises from this column to the next of the image scaled to 16 rows of 17 pixels.
    """
    bits: npt.NDArray[np.bool_] = imagehash.dhash(Image.fromarray(image), hash_size=16).hash
    return np.packbits(bits)
