"""PNG files whose metadata is broken."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_NEEDED = (b"tRNS", b"eXIf")  # for the transparency and the orientation
_CHUNKS = 2**17  # of a file, at most, are looked at


def without_broken_chunks(data: bytes) -> bytes:
    """Leave out the chunks of a PNG that are broken and not needed, as libpng does.

    Those are chunks with a wrong checksum that are neither critical nor give the transparency.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept, start = [SIGNATURE], len(SIGNATURE)
    while start + 12 <= len(data) and len(kept) <= _CHUNKS:
        end = start + 12 + int.from_bytes(data[start : start + 4])
        chunk = data[start:end]
        optional = chunk[4:5].islower() and chunk[4:8] != b"tRNS"
        if not optional or zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]):
            kept.append(chunk)
        start = end
    return b"".join([*kept, data[start:]])


def without_optional_chunks(data: bytes) -> bytes:
    """Leave out all chunks of a PNG that its upright pixels do not need, whatever they hold."""
    if not data.startswith(SIGNATURE):
        return data
    kept, start = [SIGNATURE], len(SIGNATURE)
    while start + 12 <= len(data) and len(kept) <= _CHUNKS:
        end = start + 12 + int.from_bytes(data[start : start + 4])
        name = data[start + 4 : start + 8]
        if not name[:1].islower() or name in _NEEDED:
            kept.append(data[start:end])
        start = end
    return b"".join([*kept, data[start:]])
