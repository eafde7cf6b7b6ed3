"""The scale of levels that all files of a data set share where their tags give none."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fedjax_med.data.images import array_record, decode
from fedjax_med.data.images.folders import File
from fedjax_med.data.images.levels import FULL, RANGE_FLAG, Scale, agreed_white
from fedjax_med.errors import UserError
from fedjax_med.files import open_regular, read_regular


def check_range(given: Sequence[float]) -> tuple[float, float] | None:
    """Return the black and the white that were given, or None if none were.

    Raises:
        UserError: They are not two finite numbers, the lower one first.
    """
    if not given:
        return None
    numbers = all(isinstance(one, int | float) and math.isfinite(one) for one in given)
    if len(given) != 2 or not numbers or not given[0] < given[1]:
        said = ",".join(map(str, given))
        raise UserError(f"expected {RANGE_FLAG}=BLACK,WHITE, as in 0,4095, got {said}.")
    return float(given[0]), float(given[1])


def agree(files: Sequence[File], given: tuple[float, float] | None) -> Scale:
    """Find the scale of a data set: as given, else the maximum over all files of all clients.

    Files of one value a pixel have one maximum, and those of several values a pixel another.

    Args:
        files: of train and test. Of most only the first bytes are read.
        given: black and white, if the user gave them.

    Raises:
        UserError: Files have signed or floating-point levels, and no range was given.
    """
    scale, signed = tolerant(files, given)
    if signed:
        more = f" and {len(signed) - 1:,} more" if len(signed) > 1 else ""
        raise UserError(
            f"{signed[0].name!r} in {signed[0].split}{more}: signed or floating-point grey levels, "
            f"of which the file does not say what is black and white: give {RANGE_FLAG}="
            "BLACK,WHITE, the same for all images."
        )
    return scale


def tolerant(files: Sequence[File], given: tuple[float, float] | None) -> tuple[Scale, list[File]]:
    """Find the scale as `agree` does, and list the files that need a range and have none.

    Args:
        files: as in `agree`.
        given: likewise.
    """
    if given:
        return Scale(range=given), []
    greatest, colours, signed = 0, 0, []
    with ThreadPoolExecutor() as pool:
        for block in array_record.blocks(len(files)):
            some = [files[i] for i in block]
            for file, level in zip(some, pool.map(_greatest, some), strict=True):
                if level is None:
                    signed.append(file)
                else:
                    greatest, colours = max(greatest, level[0]), max(colours, level[1])
    # Without such colours the usual scale, which does not touch those whose white is known.
    white = agreed_white(colours or FULL.white)
    return Scale(agreed_white(greatest), white_of_colours=white), signed


def _greatest(file: File) -> tuple[int, int] | None:
    """Return the greatest levels without a white of their own, or 0; None: may be negative."""
    try:
        with open_regular(file.path, decode.LIMIT) as stream:
            head = stream.read(32) or b""
        if decode.may_have_levels(head):
            return decode.greatest_level(read_regular(file.path, decode.LIMIT))
    except decode.RangeError:
        return None
    except (OSError, decode.ImageError):  # told as unreadable when it is prepared
        pass
    return 0, 0
