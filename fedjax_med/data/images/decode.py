"""One image file -> upright RGB uint8, its square thumbnail and its perceptual hash."""

import contextlib
import io
import logging
import re
import threading
import warnings

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

# Only the formats of `fedjax_med.data.images.folders.SUFFIXES`: of Pillow's others, one starts a
# program (EPS), and all are open to attack. MPO, which phones write, is read as JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
LIMIT = 2**28  # bytes of a file: as many as the pixels of the largest image take as RGB
MAX_PIXELS = 2**28 // 3  # 89 million, Pillow's own limit, which other code may lift in this process
MIN_SIDE = 16  # pixels; anything smaller is an icon or an accident, not a photograph

_WHITE_16_BIT = 65535
_LARGE = 2**24  # pixels; images above this are decoded one at a time, to bound the memory
_ROWS = 64  # rows of grey levels scaled at a time, since it is done in float64

_large_lock = threading.Lock()
# Pillow warns and logs for each faulty tag of a file; fatal faults are raised as well.
_SILENT = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_warnings_lock = threading.Lock()
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# TIFF compressions of photographs. For a fax, libtiff prints each bad line on stderr.
_PACKED = {"raw", "tiff_lzw", "tiff_jpeg", "jpeg", "tiff_adobe_deflate", "tiff_deflate"} | {
    *("packbits", "lzma", "zstd", "webp"),
}


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason in a few words."""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image file of any colour mode to upright RGB.

    The EXIF orientation is applied. Transparent pixels are laid over white. 16-bit grey levels are
    divided by 257, so that the file's white is 255; 32-bit and floating-point grey levels have no
    white of their own and are stretched from the image's minimum to its maximum. Of an animation or
    a stack the first image is used.

    Args:
        data: the bytes of the file.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ImageError: The file is not an image, broken, truncated, smaller than 16 pixels on a side,
            or so large that Pillow takes it for a decompression bomb.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with _open(data) as image, _turn(image):
            image.load()
            rgb = _to_rgb(ImageOps.exif_transpose(image))
    except (ImageError, ImportError, MemoryError):  # the last two are not the file's fault
        raise
    except Exception as error:  # the decoders raise anything on broken data, struct.error included
        raise ImageError(_reason(error)) from error
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} pixels; expected at least {MIN_SIDE} on the shorter side"
        )
    return rgb


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
    return image


def _turn(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    """Return a lock that lets only one large image be decoded at a time; none for small ones."""
    return _large_lock if image.width * image.height > _LARGE else contextlib.nullcontext()


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_to_8_bit(np.asarray(image))[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _to_8_bit(grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("holds values that are not finite numbers")
    if grey.dtype.kind != "f" and low >= 0 and high <= _WHITE_16_BIT:
        low, high = 0.0, float(_WHITE_16_BIT)
    span = max(high - low, np.finfo(np.float64).tiny)
    scaled = np.empty(grey.shape, np.uint8)
    for start in range(0, len(grey), _ROWS):
        values = grey[start : start + _ROWS].astype(np.float64)
        scaled[start : start + _ROWS] = np.rint((values - low) / span * 255)
    return scaled


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or MAX_PIXELS:,} pixels; store it smaller"
    return " ".join(str(error).split()) or type(error).__name__


def resize(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Crop the central square of an image and scale it, with antialiasing (Lanczos).

    The aspect ratio is kept, since lesions are judged by their shape.

    Args:
        image: uint8 `[H, W, 3]`.
        size: the side of the result, in pixels.

    Returns:
        uint8 `[size, size, 3]`.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


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
