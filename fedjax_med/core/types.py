"""The types that travel between the rooms.

Shape letters: ``C`` clients, ``N`` examples, ``B`` batch, ``H W ch`` image height, width and
channels, ``K`` classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import numpy.typing as npt

Array = jax.Array
Key = jax.Array  # a new-style key from jax.random.key
Params = Any  # a pytree of arrays
Message = Any  # a pytree of arrays: what leaves a client
Tensors = dict[str, npt.NDArray[Any]]  # what a file of weights holds, by its names
Metrics = dict[str, Array]  # sums over examples, so that adding two gives the metrics of both


class Examples(NamedTuple):
    """Images and labels with padding marked; the leading axes are the same in all three.

    ``[N]`` on the host or in a batch, ``[C, N]`` when the clients are stacked.
    """

    # uint8 [*lead, H, W, ch], or a frozen part's features, float16 [*lead, V, h, w, ch].
    image: Array
    label: Array  # int32 [*lead]
    mask: Array  # bool  [*lead]; False is padding and never counts


# Channel means and standard deviations of ImageNet (Russakovsky et al., 2015), on the scale 0 to 1:
# fixed constants, since statistics of the hospitals' own images would have to be shared.
RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)

# (params, examples [B], key) -> (gradient of the mean loss over the real examples, sums)
GradFn = Callable[[Params, Examples, Key], tuple[Params, Metrics]]


class Images(Protocol):
    """uint8 ``[N, H, W, 3]``, in memory or on disk: indexed, and read by `numpy.asarray`.

    Or what a frozen part makes of images, float16 ``[N, V, h, w, ch]``
    (`fedjax_med.data.feature_cache`).
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """``(N, H, W, 3)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __array__(self) -> npt.NDArray[Any]: ...


class Split(NamedTuple):
    """One split of a data set on the host, sorted by `name`; every field has length ``N``."""

    image: Images  # [N, H, W, 3], upright RGB
    label: npt.NDArray[np.int32]  # [N], an index into Dataset.class_names
    name: npt.NDArray[np.str_]  # [N], "<class>/<file>", unique within a client
    sha256: npt.NDArray[np.str_]  # [N], hex digest of the source file's bytes
    image_hash: npt.NDArray[np.uint8]  # [N, 32], a 256-bit perceptual hash
    client: npt.NDArray[np.int32]  # [N], the client whose folder it came from, or -1

    def take(self, index: npt.NDArray[Any]) -> "Split":
        """The examples at `index` (positions or a boolean mask), in that order."""
        return Split(*(field[index] for field in self))

    @property
    def num_examples(self) -> int:
        """``N``."""
        return int(self.label.shape[0])


class Unreadable(NamedTuple):
    """A file that stands where an image should and could not be used."""

    split: str  # "train" or "test"
    name: str  # "<class>/<file>"
    reason: str


class Dataset(NamedTuple):
    """A data set on the host: what every ``datasets/*.build`` returns."""

    name: str
    class_names: tuple[str, ...]  # sorted; K of them
    train: Split
    test: Split  # may have no examples
    unreadable: tuple[Unreadable, ...] = ()
    ignored: tuple[tuple[str, int], ...] = ()  # what was left aside, and how much of it


class Model(NamedTuple):
    """A model as pure functions: what every ``models/*.build`` returns.

    init: ``(key, image_shape (H, W, ch)) -> params``.
    apply: ``(params, images float [B, H, W, ch], key) -> logits float [B, K]``; without a key
        (None) the model runs deterministically, as in evaluation.
    mean, std: of each channel on the scale 0 to 1; images are normalised by them for ``apply``.
    colour_constancy: the exponent of the mean over an image's pixels whose colour is made grey
        before that (6 is usual); 0 leaves the colours alone.
    head: the key of the classifier in the parameters.
    pretrained: ``(tensors by name, first params) -> params`` with the weights that others trained
        (`fedjax_med.models.pretrained.weights`); None where there are none.
    frozen: the part below, which is not trained: its ``apply`` gives what this model takes for
        images; None where all is trained.
    features: ``(params, images float [B, H, W, ch], key) -> float [B, D]``, what the classifier
        sees; None: the logits are taken.
    """

    init: Callable[[Key, tuple[int, int, int]], Params]
    apply: Callable[[Params, Array, Key | None], Array]
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    colour_constancy: float = 0.0
    head: str = "classifier"
    pretrained: Callable[[Tensors, Params], Params] | None = None
    frozen: "Model | None" = None
    features: Callable[[Params, Array, Key | None], Array] | None = None
