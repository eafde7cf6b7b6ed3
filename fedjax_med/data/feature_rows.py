"""Features in a file, indexed like an array of images in another order."""

from typing import Any

import numpy as np
import numpy.typing as npt


class Rows:
    """Features of images in an order of their own, of a file; read when converted to an array.

    Args:
        kept: the features of different images ``[M, V, h, w, ch]``, such as a memory map.
        rows: int64 ``[N]``, the row of each image.
    """

    def __init__(self, kept: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> None:
        self._kept, self._rows = kept, rows
        self.dtype, self.shape = kept.dtype, (len(rows), *kept.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """Read one image's features for a number; return them unread for anything else."""
        first, *others = index if isinstance(index, tuple) else (index,)
        rows, kept = self._rows[first], self._kept[:, *others] if others else self._kept
        return kept[int(rows)] if rows.ndim == 0 else Rows(kept, rows)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("features on disk cannot become an array without a copy")
        return np.asarray(self._kept[self._rows], dtype)
