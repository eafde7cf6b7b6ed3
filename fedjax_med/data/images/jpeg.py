"""JPEG files whose metadata is broken."""

_START = b"\xff\xd8\xff"
# The least lengths of a JFIF and of an Adobe segment, with the two bytes of the length.
_LEAST = {0xE0: (b"JFIF", 16), 0xEE: (b"Adobe", 14)}


def without_short_segments(data: bytes) -> bytes:
    """Leave out JFIF and Adobe segments that are too short for what they must hold."""
    if not data.startswith(_START):
        return data
    kept, start = [data[:2]], 2
    while start + 4 < len(data) and data[start] == 0xFF and 0xE0 <= data[start + 1] <= 0xEF:
        length = int.from_bytes(data[start + 2 : start + 4])
        end = start + 2 + length
        name, least = _LEAST.get(data[start + 1], (b"", 0))
        if length < 2 or end + 1 >= len(data):
            break
        if length >= least or not data[start + 4 : end].startswith(name):
            kept.append(data[start:end])
        start = end
    return b"".join([*kept, data[start:]])
