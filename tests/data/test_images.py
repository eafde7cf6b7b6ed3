import functools
import io
import logging
import os
import re
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fedjax_med.data.images import agreement, decode
from fedjax_med.data.images.folders import File
from fedjax_med.data.images.levels import FULL, Scale, agreed_white


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 7, rows + columns], -1).astype(np.uint8)


def photograph(seed: int, side: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def test_an_rgb_image_comes_out_as_it_is():
    np.testing.assert_array_equal(decode.decode(encoded(Image.fromarray(ramp()))), ramp())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA"])
def test_every_colour_mode_comes_out_as_rgb(mode):
    source = Image.fromarray(ramp()).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    decoded = decode.decode(encoded(source, kind))
    assert decoded.shape == (24, 32, 3)
    assert decoded.dtype == np.uint8
    error = np.abs(decoded.astype(int) - np.asarray(source.convert("RGB"))).mean()
    assert error < (8 if kind == "JPEG" else 1e-9)


def test_16_bit_grey_is_scaled_and_not_clipped():
    levels = np.tile(np.array([257, 514, 25_700, 51_400], np.uint16), (16, 4))
    for kind in ("PNG", "TIFF"):
        decoded = decode.decode(encoded(Image.fromarray(levels), kind))
        np.testing.assert_array_equal(decoded[0, :4, 0], [1, 2, 100, 200])
        np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def grey(levels: list[float], kind: Any, file: str = "TIFF", **tags: Any) -> bytes:
    """An image whose columns have these levels."""
    image = Image.fromarray(np.tile(np.array(levels, kind), (16, 16 // len(levels))))
    info = {int(tag.removeprefix("t")): value for tag, value in tags.items()}
    return encoded(image, file, **({"tiffinfo": info} if info else {}))


def shown(data: bytes, scale: Scale = FULL) -> list[int]:
    return decode.decode(data, scale)[0, :4, 1].tolist()


@pytest.mark.parametrize(
    ("kind", "tags", "expected"),
    [
        (np.uint16, {}, [0, 0, 8, 16]),  # as the scale says: 65,535 is white
        (np.uint16, {"t262": 0}, [255, 255, 247, 239]),  # WhiteIsZero
        (np.uint16, {"t281": 4095}, [0, 0, 128, 255]),  # MaxSampleValue
        (np.uint16, {"t262": 0, "t281": 4095}, [255, 255, 127, 0]),
        (np.uint16, {"t341": 4095}, [0, 0, 128, 255]),  # SMaxSampleValue
        (np.uint16, {"t281": 1023}, [0, 0, 255, 255]),  # cut off, not wrapped
        (np.uint16, {"t281": 0}, [0, 0, 8, 16]),  # no white at all: not believed
        (np.float32, {"t340": 0.0, "t341": 4095.0}, [0, 0, 128, 255]),
        (np.float32, {"t262": 0, "t340": 0.0, "t341": 4095.0}, [255, 255, 127, 0]),
    ],
)
def test_the_tags_of_a_file_decide_what_is_white(kind, tags, expected):
    assert shown(grey([0, 1, 2048, 4095], kind, **tags)) == expected


def test_twelve_bits_that_are_stored_as_twelve_are_read_as_twelve():
    four = (0x000_800_FFF_000).to_bytes(6)
    data = tiff(1, four * 4 * 16, side=16, bits=12)
    assert shown(data) == [0, 128, 255, 0]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_signed_and_float_levels_have_the_range_that_is_given_and_never_their_own(kind):
    data = grey([-1000, 0, 1000, 3000], kind)
    with pytest.raises(decode.RangeError, match=r"--config.dataset.options.range=BLACK,WHITE"):
        decode.decode(data)
    assert shown(data, Scale(range=(-1000, 1000))) == [0, 128, 255, 255]
    assert shown(grey([0, 0, 0, 1000], kind), Scale(range=(-1000, 1000))) == [128, 128, 128, 255]


def test_signed_levels_of_8_bits_are_not_read_as_unsigned():
    data = tiff(1, np.tile(np.array([-128, 0, 64, 127], np.int8), (16, 4)).tobytes(), 16, sign=2)
    with pytest.raises(decode.RangeError):
        decode.decode(data)
    assert shown(data, Scale(range=(-128, 127))) == [0, 128, 192, 255]


def deep_png(stored: np.ndarray, chunks: bytes = b"") -> bytes:
    """A PNG of 16 bits, of `stored` [H, W, C]."""
    height, width, values = stored.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in stored)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + chunks + pixels


def chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def deep_tiff(stored: np.ndarray, order: str = "<", packing: int = 1, **tags: int) -> bytes:
    """A TIFF of `stored` [H, W, C], or of the type of `stored` if it is no uint16."""
    height, width, values = stored.shape
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if packing == 8 else data
    bits, format_ = 8 * stored.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
    numbers: dict[int, list[int]] = {256: [width], 257: [height], 258: [bits] * values}
    numbers |= {259: [packing], 262: [2 if values > 2 else 1], 273: [0], 277: [values]}
    numbers |= {278: [height], 279: [len(data)]}
    numbers |= {338: [2]} if values in (2, 4) else {}
    numbers |= {339: [format_] * values} | {int(tag[1:]): [one] for tag, one in tags.items()}
    long = b"".join(struct.pack(f"{order}{values}I", *numbers[tag]) for tag in (258, 339))
    end = 8 + 2 + 12 * len(numbers) + 4
    places = {258: end, 339: end + 4 * values} if values > 1 else {}
    numbers[273] = [end + len(long)]
    rows = [
        struct.pack(f"{order}HHII", tag, 4, len(of), places.get(tag, of[0]))
        for tag, of in sorted(numbers.items())
    ]
    first = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(rows))
    return first + b"".join(rows) + bytes(4) + long + data


def of_columns(levels: list[int], values: int, alpha: int, kind: Any = np.uint16) -> np.ndarray:
    stored = np.tile(np.array(levels, kind)[:, None], (16, 4, values))
    if values in (2, 4):
        stored[..., -1] = alpha
    return stored


@pytest.mark.parametrize("alpha", [4095, 65_535])
@pytest.mark.parametrize(
    ("make", "values"),
    [(deep_png, 2), (deep_png, 3), (deep_png, 4)]
    + [
        (functools.partial(deep_tiff, order=order, packing=packing), values)
        for order in "<>"
        for packing in (1, 8)
        for values in (3, 4)
    ],
)
def test_colours_of_12_bits_that_are_stored_as_16_are_not_nearly_black(make, values, alpha):
    data = make(of_columns([0, 1025, 2048, 4095], values, alpha))
    assert decode.may_have_levels(data[:32])
    assert decode.greatest_level(data) == (0, 4095)
    found = decode.read(data, Scale(white_of_colours=4095))
    np.testing.assert_array_equal(found.image[0, :4], [[level] * 3 for level in (0, 64, 128, 255)])
    assert found.levels.startswith("0 to 4095 (black to white)")


def test_colours_of_all_16_bits_are_read_by_their_high_bytes():
    stored = of_columns([0x00FF, 0x40FF, 0x8000, 0xFFFF], 3, 0)
    for data in (deep_png(stored), deep_tiff(stored), deep_tiff(stored, ">")):
        assert shown(data) == [0, 0x40, 0x80, 255]
        assert decode.read(data).levels == ""


def test_the_tags_and_the_transparent_colour_of_16_bit_colours_count():
    stored = of_columns([0, 1025, 2048, 4095], 3, 0)
    assert shown(deep_tiff(stored, t281=4095)) == [0, 64, 128, 255]
    clear = chunk(b"tRNS", struct.pack(">3H", 1025, 1025, 1025))
    assert shown(deep_png(stored, clear), Scale(white_of_colours=4095)) == [0, 255, 128, 255]
    half = of_columns([0, 1025, 2048, 4095], 4, 2048)
    assert shown(deep_png(half), Scale(white_of_colours=4095)) == [127, 159, 191, 255]
    multiplied = deep_tiff(of_columns([0, 512, 1024, 2048], 4, 2048), t338=1)
    assert shown(multiplied, Scale(white_of_colours=4095)) == [127, 159, 191, 255]


@pytest.mark.parametrize("packing", [1, 8])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "u4", "f2", "f4", "f8"])
def test_every_kind_of_tiff_is_read_or_told(order, kind, packing):
    """None comes out in the other byte order."""
    for white_is_zero in (0, 1):
        stored = of_columns([0, 5, 10, 15], 1, 0, kind)
        data = deep_tiff(stored, order, packing, t262=1 - white_is_zero)
        found = decode.decode(data, Scale(range=(0, 15)))
        expected = np.array([0, 85, 170, 255], np.uint8)
        expected = 255 - expected if white_is_zero else expected
        np.testing.assert_array_equal(found[0, :4, 0], expected)


@pytest.mark.parametrize("packing", [1, 8])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extra", [0, 2])
def test_grey_of_16_bits_with_alpha_is_read_from_a_tiff(order, packing, extra):
    stored = of_columns([0, 1025, 2048, 4095], 2, 65_535 if extra else 0)
    data = deep_tiff(stored, order, packing, t338=extra)
    assert decode.greatest_level(data) == (0, 4095)
    found = decode.read(data, Scale(white_of_colours=4095))
    np.testing.assert_array_equal(found.image[0, :4], [[level] * 3 for level in (0, 64, 128, 255)])
    assert shown(deep_tiff(stored * 16, order, packing, t338=extra)) == [0, 64, 128, 255]
    clear = deep_tiff(of_columns([0, 1025, 2048, 4095], 2, 0), order, packing)
    assert shown(clear) == [255] * 4


def test_half_precision_has_no_range_of_its_own():
    data = deep_tiff(of_columns([0, 5, 10, 15], 1, 0, "f2"))
    with pytest.raises(decode.RangeError):
        decode.decode(data)
    assert shown(deep_tiff(of_columns([-1, 0, 0.5, 1], 1, 0, "f2")), Scale(range=(-1, 1))) == [
        *(0, 128, 191, 255)
    ]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (deep_tiff(of_columns([0], 3, 0, "f4")), "32+32+32 bits a pixel (floating-point; RGB; lit"),
        (deep_tiff(of_columns([0], 1, 0, "u8"), ">"), "64 bits a pixel (unsigned; grey; big-end"),
        (deep_tiff(of_columns([0], 1, 0, "f2"), t262=9), "of rare colours; little-endian), which"),
    ],
)
def test_a_kind_of_tiff_that_is_not_read_is_described(data, kind):
    with pytest.raises(
        decode.ImageError, match=re.escape(kind) + ".*: save it as a PNG of 8 or 16"
    ):
        decode.decode(data)
    for length in range(8, len(data) - 1000, 7):
        with pytest.raises(decode.ImageError):
            decode.decode(data[:length])


def test_the_tags_of_8_bits_count():
    for values in (1, 3):
        stored = of_columns([0, 5, 10, 15], values, 0, np.uint8)
        assert shown(deep_tiff(stored, t281=15)) == [0, 85, 170, 255]
        assert shown(deep_tiff(stored, t281=255)) == shown(deep_tiff(stored)) == [0, 5, 10, 15]
    inverted = deep_tiff(of_columns([0, 5, 10, 15], 1, 0, np.uint8), t281=15, t262=0)
    assert shown(inverted) == [255, 170, 85, 0]


def test_colours_agree_on_a_white_of_their_own(tmp_path):
    files = []
    for name, data in {
        "1.png": deep_png(of_columns([0, 1, 2, 1000], 3, 0)),
        "2.tif": deep_tiff(of_columns([0, 1, 2, 3000], 4, 65_535)),
        "3.png": grey([0, 1000], np.uint16, "PNG"),
    }.items():
        (tmp_path / name).write_bytes(data)
        files.append(File(tmp_path / name, "train", -1, 0, f"a/{name}"))
    assert agreement.agree(files, None) == Scale(1023, None, 4095)
    assert agreement.agree(files[2:], None) == Scale(1023, None, FULL.white)


def test_16_bit_colours_that_are_stored_one_after_the_other_are_refused():
    with pytest.raises(decode.ImageError, match="each colour by itself: save it as a PNG"):
        decode.decode(deep_tiff(of_columns([0, 1, 2, 3], 3, 0), t284=2))


@pytest.mark.parametrize("file", ["PNG", "TIFF"])
def test_the_scale_of_the_set_is_for_files_that_do_not_tell_it(file):
    data = grey([0, 1024, 2048, 4095], np.uint16, file)
    assert shown(data, Scale(white=4095)) == [0, 64, 128, 255]
    assert shown(data, Scale(range=(1024, 2048))) == [0, 0, 255, 255]
    assert decode.greatest_level(data) == (4095, 0)
    assert decode.greatest_level(grey([0, 1, 2, 3], np.uint16, t281=4095)) == (0, 0)
    assert decode.greatest_level(encoded(Image.fromarray(ramp()), file)) == (0, 0)
    assert decode.may_have_levels(data[:32])
    assert not decode.may_have_levels(encoded(Image.fromarray(ramp()))[:32])


@pytest.mark.parametrize(
    ("greatest", "white"), [(0, 255), (200, 255), (256, 511), (4095, 4095), (4096, 8191)]
)
def test_the_agreed_white_is_the_least_power_of_two_above_all_levels(greatest, white):
    assert agreed_white(greatest) == white


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(decode.ImageError, match="finite"):
        decode.decode(grey([np.nan, 0.0], np.float32), Scale(range=(0, 1)))


@pytest.mark.parametrize("text", [b"eXIf", b"tIME"])
def test_a_broken_piece_of_metadata_does_not_cost_the_image(text):
    data = encoded(Image.fromarray(ramp()))
    chunk = struct.pack(">I", 7) + text + b"1234567" + b"oops"  # a wrong checksum
    damaged = data[:33] + chunk + data[33:]
    np.testing.assert_array_equal(decode.decode(damaged), ramp())
    with pytest.raises(decode.ImageError):  # of the pixels' own checksum it does
        decode.decode(damaged[:-20] + b"oops" + damaged[-16:])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))),
        (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        (b"iCCP", b"a\0\7" + zlib.compress(b"a")),
        *((name, b"\0") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL")),
        *((name, b"") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL")),
    ],
)
def test_a_faulty_optional_chunk_with_a_right_checksum_does_not_cost_the_image(name, content):
    data = encoded(Image.fromarray(ramp()))
    faulty = data[:33] + chunk(name, content) + data[33:]
    np.testing.assert_array_equal(decode.decode(faulty), ramp())


def test_the_orientation_is_kept_when_other_chunks_are_faulty():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(Image.fromarray(ramp()), exif=exif)
    faulty = data[:33] + chunk(b"pHYs", b"") + data[33:]
    np.testing.assert_array_equal(decode.decode(faulty), ramp()[::-1, ::-1])


@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\xe0", b"\xff\xe0\x00"])
def test_a_jpeg_that_ends_in_its_segments_is_told(tail):
    with pytest.raises(decode.ImageError):
        decode.read(b"\xff\xd8\xff" + tail)


@pytest.mark.parametrize(("marker", "content"), [(0xE0, b"JFIF\0"), (0xEE, b"Adobe")])
def test_a_short_segment_does_not_cost_the_jpeg(marker, content):
    data = encoded(Image.fromarray(ramp()), "JPEG")
    segment = struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content
    found = decode.decode(data[:2] + segment + data[2:])
    np.testing.assert_array_equal(found, decode.decode(data))


@pytest.mark.parametrize("faulty", [b"", b"II", b"II*\0\xff\xff\xff\xff", bytes(99)])
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is_stored(faulty):
    data = encoded(Image.fromarray(ramp()))
    chunk = struct.pack(">I", len(faulty)) + b"eXIf" + faulty
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    np.testing.assert_array_equal(decode.decode(data[:33] + chunk + data[33:]), ramp())


def test_transparent_pixels_are_laid_over_white():
    image = np.zeros((16, 16, 4), np.uint8)
    image[:8, :, 3] = 255
    image[8, :, 3] = 51  # one fifth of black over white is 204
    decoded = decode.decode(encoded(Image.fromarray(image)))
    assert (decoded[:8] == 0).all()
    assert (decoded[8] == 204).all()
    assert (decoded[9:] == 255).all()


def test_the_transparent_colour_of_a_palette_becomes_white():
    palette = Image.fromarray(np.repeat([[0], [1]], 8, 0).repeat(16, 1).astype(np.uint8), "L")
    palette = palette.convert("P")
    palette.putpalette([200, 0, 0, 0, 0, 200])
    decoded = decode.decode(encoded(palette, "PNG", transparency=0))
    assert (decoded[0, 0] == 255).all()
    np.testing.assert_array_equal(decoded[8, 0], [0, 0, 200])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turns", "mirrored"),
    [(1, 0, False), (2, 0, True), (3, 2, False), (6, 1, False)],
)
def test_exif_rotated_images_come_out_upright(kind, orientation, turns, mirrored):
    upright = ramp()
    stored = np.rot90(upright, turns)
    stored = stored[:, ::-1] if mirrored else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    np.testing.assert_array_equal(decode.decode(data), upright)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_truncated_files_are_refused_with_a_reason(kind):
    data = encoded(Image.fromarray(photograph(0)), kind)
    with pytest.raises(decode.ImageError) as error:
        decode.decode(data[: len(data) // 2])
    assert 5 < len(str(error.value)) < 200
    assert "0x" not in str(error.value)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"<html>" * 50, "known format")])
def test_files_that_are_no_images_are_refused(data, reason):
    with pytest.raises(decode.ImageError, match=reason):
        decode.decode(data)


def test_images_of_a_few_pixels_are_refused():
    with pytest.raises(decode.ImageError, match=r"2 x 2 pixels; expected at least 16"):
        decode.decode(encoded(Image.new("RGB", (2, 2))))
    with pytest.raises(decode.ImageError, match="200 x 15 pixels"):
        decode.decode(encoded(Image.new("RGB", (200, 15))))
    assert decode.decode(encoded(Image.new("RGB", (16, 16)))).shape == (16, 16, 3)


@pytest.mark.parametrize("limit", [1_000, 500])  # Pillow warns above the limit, raises above twice
def test_decompression_bombs_are_refused_with_a_readable_reason(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(decode.ImageError, match=rf"more than {limit:,} pixels"):
        decode.decode(encoded(Image.new("RGB", (40, 30))))


def test_the_limit_of_pixels_does_not_hang_on_settings_of_the_process(monkeypatch):
    """Neither on Pillow's own limit, nor on filters of warnings, which all threads share."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 1_000)
    for limit in (None, 700):  # at 700 Pillow itself would only warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        monkeypatch.setattr("warnings.warn", lambda *arguments: None)
        with pytest.raises(decode.ImageError, match=r"more than [\d,]+ pixels"):
            decode.decode(encoded(Image.new("RGB", (40, 30))))


def test_bombs_are_refused_in_several_threads_at_once(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    bomb, good = encoded(Image.new("RGB", (40, 30))), encoded(Image.new("RGB", (20, 20)))

    def refused(data):
        try:
            decode.decode(data)
        except decode.ImageError as error:
            return "pixels" in str(error)
        return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(refused, [bomb, good] * 100)) == [True, False] * 100


def test_large_images_are_decoded_one_after_the_other(monkeypatch):
    monkeypatch.setattr(decode, "_LARGE", 500)
    to_rgb, at_once, most = decode._to_rgb, [], []

    def counted(*arguments):
        at_once.append(None)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        return to_rgb(*arguments)

    monkeypatch.setattr(decode, "_to_rgb", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode.decode, [encoded(Image.fromarray(ramp()))] * 6))
        assert max(most) == 1
        list(pool.map(decode.decode, [encoded(Image.new("RGB", (20, 20)))] * 6))
        assert max(most) > 1


def test_many_rows_of_grey_are_scaled_as_one():
    levels = np.random.default_rng(0).integers(0, 65_536, (150, 40)).astype(np.uint16)
    decoded = decode.decode(encoded(Image.fromarray(levels), "TIFF"))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(levels / 65_535 * 255))


Image.init()
OTHERS = sorted(set(Image.SAVE) - set(decode.FORMATS) - {"MPO"})  # MPO is JPEG


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_no_other_format_that_pillow_writes_is_opened(monkeypatch, kind):
    data = b""
    for mode in ("RGB", "L", "1", "P", "F", "CMYK"):
        try:
            data = encoded(Image.new(mode, (32, 32)), kind)
            break
        except (OSError, ValueError, KeyError, AttributeError, ImportError):
            continue  # of another mode, or a stub for programs that are not there
    opened = []
    for name in set(Image.OPEN) - set(decode.FORMATS):
        monkeypatch.setitem(Image.OPEN, name, (lambda *_, name=name: opened.append(name), None))
    if data:
        with pytest.raises(decode.ImageError, match="not an image of a known format"):
            decode.decode(data)
    assert opened == []
    assert data or kind in ("AVIF", "BUFR", "GRIB", "HDF5", "WMF")  # which may lack a library


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 100 100
%%EndComments
showpage
%%EOF
"""


def test_no_program_is_started_for_an_image(monkeypatch, tmp_path):
    marker = tmp_path / "marker"
    for name in ("gs", "gswin32c", "gswin64c", "djpeg", "cjpeg"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for again
    with pytest.raises(decode.ImageError, match="not an image of a known format"):
        decode.decode(EPS)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011
        Image.open(io.BytesIO(EPS)).load()
    assert marker.exists()  # as Pillow would have done


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_a_file_of_several_images_is_refused(kind):
    first, other = Image.fromarray(photograph(0)), Image.new("RGB", (96, 96), "red")
    data = encoded(first, kind, save_all=True, append_images=[other] * 3)
    with pytest.raises(decode.ImageError, match="several images: save the one that counts"):
        decode.decode(data)
    decode.decode(encoded(first, kind, save_all=True))


def test_what_a_phone_adds_to_its_photograph_does_not_count():
    first, other = Image.fromarray(photograph(0)), Image.new("RGB", (96, 96), "red")
    data = encoded(first, "MPO", save_all=True, append_images=[other])
    np.testing.assert_array_equal(decode.decode(data), decode.decode(encoded(first, "JPEG")))


@pytest.mark.parametrize(("kind", "counts"), [(1, False), (4, False), (0, True), (2, True)])
def test_a_reduced_copy_or_a_mask_is_no_second_page(kind, counts):
    first, second = Image.fromarray(ramp()), Image.new("RGB", (16, 16))
    second.encoderinfo = {"tiffinfo": {254: kind}}
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    if counts:
        with pytest.raises(decode.ImageError, match="several images"):
            decode.decode(data)
    else:
        np.testing.assert_array_equal(decode.decode(data), ramp())


def test_texts_in_a_png_that_inflate_without_end_do_not_cost_the_image():
    info = PngImagePlugin.PngInfo()
    for number in range(80):
        info.add_text(f"text {number}", "x" * 1_000_000, zip=True)
    data = encoded(Image.fromarray(ramp()), "PNG", pnginfo=info)
    assert len(data) < 1_000_000
    np.testing.assert_array_equal(decode.decode(data), ramp())


@pytest.mark.parametrize("fault", [MemoryError, ImportError])
def test_what_is_no_fault_of_the_file_is_not_told_of_it(monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(decode, "_to_rgb", fail)
    with pytest.raises(fault):
        decode.decode(encoded(Image.fromarray(ramp())))


def test_resizing_keeps_shapes_and_takes_the_centre():
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = 200  # the central square
    np.testing.assert_array_equal(decode.resize(wide, 20), np.full((20, 20, 3), 200, np.uint8))
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    np.testing.assert_array_equal(decode.resize(tall, 64), np.full((64, 64, 3), 200, np.uint8))


def test_padding_and_stretching_keep_what_is_outside_of_the_square():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :40] = 200
    expected = np.zeros((20, 20, 3), np.uint8)
    expected[5:15, :9] = 200
    padded = decode.resize(wide, 20, "pad")
    far = [*range(6), *range(14, 20)]  # from the edge in the middle
    np.testing.assert_array_equal(padded[:, far], expected[:, far])
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    np.testing.assert_array_equal(decode.resize(tall, 20, "pad"), padded.transpose(1, 0, 2))
    stretched = decode.resize(wide, 20, "stretch")
    assert (stretched[:, :6] == 200).all()
    assert (stretched[:, 14:] == 0).all()
    assert decode.resize(np.full((500, 1, 3), 9, np.uint8), 20, "pad").max() == 9
    square = photograph(0)
    for crop in decode.CROPS[1:]:
        np.testing.assert_array_equal(decode.resize(square, 20, crop), decode.resize(square, 20))


def test_resizing_averages_fine_detail():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(decode.resize(stripes, 8).astype(int) - 100).max() <= 10


def test_the_hash_bits_say_where_grey_rises_to_the_right():
    columns = np.concatenate([np.linspace(0, 250, 160), np.linspace(250, 0, 160)])
    image = np.repeat(columns[None, :, None], 320, 0).repeat(3, 2).astype(np.uint8)
    bits = np.unpackbits(decode.perceptual_hash(image)).reshape(16, 16)
    np.testing.assert_array_equal(bits, np.tile([1] * 8 + [0] * 8, (16, 1)))


def test_the_hash_hardly_changes_with_encoding_and_scale_and_much_with_content():
    def distance(one: np.ndarray, other: np.ndarray) -> int:
        bits = decode.perceptual_hash(one) ^ decode.perceptual_hash(other)
        return int(np.bitwise_count(bits).sum())

    image = photograph(1)
    copy = decode.decode(encoded(Image.fromarray(image).resize((80, 80)), "JPEG", quality=80))
    assert distance(image, copy) <= 10
    assert distance(image, photograph(2)) > 60


def tiff(
    packing: int, data: bytes, side: int = 64, bits: int = 8, sign: int = 1, **faults: int
) -> bytes:
    """One strip, and tags of 1,000 numbers that lie beyond the end of the file."""
    tags = [(256, side), (257, side), (258, bits), (259, packing), (262, 1), (273, 0)]
    tags += [(277, faults.get("samples", 1)), (278, side), (279, len(data))]
    tags += [(339, sign)]
    strange = range(60_000, 60_000 + faults.get("tags", 0))
    start = 8 + 2 + 12 * (len(tags) + len(strange)) + 4
    rows = [struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags]
    rows += [struct.pack("<HHII", tag, 4, 1_000, 2**30) for tag in strange]
    return struct.pack("<2sHIH", b"II", 42, 8, len(rows)) + b"".join(rows) + bytes(4) + data


def test_warnings_of_pillow_are_not_printed_whatever_the_filters_and_others_are(capfd, monkeypatch):
    """Under each filter the same image comes out: what is told of it is no part of the result."""
    data = tiff(1, bytes(64 * 64), tags=50)
    for kind in ("always", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(kind)
            with ThreadPoolExecutor(8) as pool:
                decoded = list(pool.map(decode.decode, [data] * 50))
            assert not np.any(decoded)
            with pytest.warns(UserWarning, match="mine"):
                warnings.warn("mine", stacklevel=1)
    assert capfd.readouterr().err == ""


def test_logs_of_pillow_are_not_printed(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(decode.ImageError):
        decode.decode(tiff(1, bytes(64 * 64), samples=60))
    assert not caplog.records


@pytest.mark.parametrize("packing", [2, 3, 4, 32771, 32809])
def test_a_fax_is_refused_before_its_bad_lines_flood_the_terminal(capfd, packing):
    data = np.random.default_rng(0).bytes(100_000)
    with pytest.raises(decode.ImageError, match="no photograph"):
        decode.decode(tiff(packing, data, side=5_000, bits=1))
    assert len(capfd.readouterr().err.splitlines()) <= 1


@pytest.mark.parametrize("packing", ["tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"])
def test_tiff_as_photographs_are_packed_is_decoded(packing):
    data = encoded(Image.fromarray(ramp()), "TIFF", compression=packing)
    assert decode.decode(data).shape == ramp().shape
