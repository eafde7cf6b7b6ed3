import io
import logging
import os
import struct
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fedjax_med.data.images import decode


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


def test_32_bit_and_float_grey_is_stretched_over_its_range():
    levels = np.tile(np.array([-100_000, 0, 100_000, 0]), (16, 4))
    for kind in (np.int32, np.float32):
        decoded = decode.decode(encoded(Image.fromarray(levels.astype(kind)), "TIFF"))
        np.testing.assert_array_equal(decoded[0, :3, 1], [0, 128, 255])


def test_floats_that_are_no_numbers_are_refused():
    levels = np.full((16, 16), np.nan, np.float32)
    with pytest.raises(decode.ImageError, match="finite"):
        decode.decode(encoded(Image.fromarray(levels), "TIFF"))


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

    def counted(image):
        at_once.append(None)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        return to_rgb(image)

    monkeypatch.setattr(decode, "_to_rgb", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode.decode, [encoded(Image.fromarray(ramp()))] * 6))
        assert max(most) == 1
        list(pool.map(decode.decode, [encoded(Image.new("RGB", (20, 20)))] * 6))
        assert max(most) > 1


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_many_rows_of_grey_are_scaled_as_one(kind):
    levels = np.random.default_rng(0).integers(0, 65_536, (150, 40)).astype(kind)
    levels[0, 0], levels[-1, -1] = (0, 65_535) if kind == np.uint16 else (0, 70_000)
    decoded = decode.decode(encoded(Image.fromarray(levels), "TIFF"))
    expected = np.rint(levels.astype(np.float64) / levels.max() * 255)
    np.testing.assert_array_equal(decoded[..., 0], expected)


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


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_many_images_in_a_file_the_first_is_decoded_and_no_other(monkeypatch, kind):
    first, other = Image.fromarray(photograph(0)), Image.new("RGB", (96, 96), "red")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[other] * 50, **options)
    alone = encoded(first, "JPEG" if kind == "MPO" else kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames > 1
        monkeypatch.setattr(type(image), "seek", None)
    np.testing.assert_array_equal(decode.decode(data), decode.decode(alone))


def test_texts_in_a_png_that_inflate_without_end_are_refused():
    info = PngImagePlugin.PngInfo()
    for number in range(80):
        info.add_text(f"text {number}", "x" * 1_000_000, zip=True)
    data = encoded(Image.fromarray(ramp()), "PNG", pnginfo=info)
    assert len(data) < 1_000_000
    with pytest.raises(decode.ImageError, match="text"):
        decode.decode(data)


@pytest.mark.parametrize("fault", [MemoryError, ImportError])
def test_what_is_no_fault_of_the_file_is_not_told_of_it(monkeypatch, fault):
    def fail(image):
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


def tiff(packing: int, data: bytes, side: int = 64, bits: int = 8, **faults: int) -> bytes:
    """One strip, and tags of 1,000 numbers that lie beyond the end of the file."""
    tags = [(256, side), (257, side), (258, bits), (259, packing), (262, 1), (273, 0)]
    tags += [(277, faults.get("samples", 1)), (278, side), (279, len(data))]
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
