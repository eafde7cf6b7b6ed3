"""Images that stay on disk: indexed like an array, read when converted to an array."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedjax_med.data.images import checksums
from fedjax_med.errors import UserError

BLOCK = 256  # images decoded, or records read, at a time


class Reader(Protocol):
    """Random access to the records of a file."""

    def __getitems__(self, positions: list[int], /) -> list[dict[str, Any]]:
        """Read the records at `positions`, each with an "image"."""


class DiskImages:
    """Images uint8 ``[N, H, W, 3]`` in a file; indexing returns a view, `np.asarray` reads it.

    Args:
        reader: reads the file, also from several threads at once.
        positions: int64 ``[N]``, the record of each image.
        brightest: uint8 ``[N]``, the greatest value in each image.
        image_shape: ``(H, W, 3)``.
        place: the folder of the file, to explain a failed read.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        reader: Reader,
        positions: npt.NDArray[np.int64],
        brightest: npt.NDArray[np.uint8],
        image_shape: tuple[int, int, int],
        place: Path,
    ) -> None:
        self._reader, self._positions, self._place = reader, positions, place
        self.brightest = brightest
        self.shape = (len(positions), *image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Read one image for a number; return an unread view for a slice, a mask or positions."""
        chosen = self._positions[index]
        if chosen.ndim == 0:
            return self._read(chosen[None])[0]
        return DiskImages(self._reader, chosen, self.brightest[index], self.shape[1:], self._place)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("images on disk cannot become an array without a copy")
        array = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), BLOCK):
            chosen = self._positions[start : start + BLOCK]
            array[start : start + len(chosen)] = self._read(chosen)
        return array if dtype is None else array.astype(dtype, copy=False)

    def _read(self, positions: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        try:
            return [record["image"] for record in self._reader.__getitems__(positions.tolist())]
        except (MemoryError, UserError):
            raise
        except Exception as error:  # the reader may raise anything on a damaged or missing file
            if explained := checksums.explain(self._place, error):
                raise explained from error
            raise
