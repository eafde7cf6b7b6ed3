"""A data set on the host: its splits, and the files that could not be read."""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Images(Protocol):
    """Images uint8 ``[N, H, W, 3]``, in memory or on disk: indexable, read by `numpy.asarray`.

    Or their features from the frozen part of a model, float16 ``[N, V, h, w, ch]``
    (`fedjax_med.data.feature_cache`).
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the values."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """Return the shape, ``(N, H, W, 3)`` for images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __array__(self) -> npt.NDArray[Any]: ...


class Split(NamedTuple):
    """One split of a data set on the host, sorted by (client, name); fields have length ``N``."""

    image: Images  # [N, H, W, 3], upright RGB
    label: npt.NDArray[np.int32]  # [N], an index into Dataset.class_names
    name: npt.NDArray[np.str_]  # [N], "<class>/<file>", unique within a client
    sha256: npt.NDArray[np.str_]  # [N], hex digest of the source file's bytes
    image_hash: npt.NDArray[np.uint8]  # [N, 32], a 256-bit perceptual hash
    client: npt.NDArray[np.int32]  # [N], the client whose folder it came from, or -1
    group: npt.NDArray[np.str_] | None = None  # [N], such as its lesion; "": alone; None: no groups

    def take(self, index: npt.NDArray[Any]) -> "Split":
        """Select the examples at `index` (positions or a boolean mask), in that order."""
        fields: Any = (None if field is None else field[index] for field in self)
        return Split(*fields)

    @property
    def num_examples(self) -> int:
        """Return ``N``, the number of examples."""
        return int(self.label.shape[0])


class Unreadable(NamedTuple):
    """A file in the place of an image that could not be used."""

    split: str  # "train" or "test"
    name: str  # "<class>/<file>"
    reason: str


class GroupTable(NamedTuple):
    """The table that says which images belong together."""

    path: str
    column: str  # the heading of the groups
    sha256: str  # of the file


class Dataset(NamedTuple):
    """A data set on the host, as every ``datasets/*.build`` returns it."""

    name: str
    class_names: tuple[str, ...]  # sorted; K of them
    train: Split
    test: Split  # may have no examples
    unreadable: tuple[Unreadable, ...] = ()
    ignored: tuple[tuple[str, int], ...] = ()  # kinds of ignored files and their counts
    levels: tuple[tuple[str, int], ...] = ()  # scales of grey levels above 8 bits, and their counts
    clients: tuple[str, ...] = ()  # the names of the hospitals' folders; () without any
    groups: GroupTable | None = None  # where the groups of the splits are from

    def client_names(self) -> tuple[str, ...]:
        """Return the names of the hospitals' folders; () if these only number them from 0."""
        numbered = tuple(f"client_{client}" for client in range(len(self.clients)))
        return () if self.clients == numbered else self.clients
