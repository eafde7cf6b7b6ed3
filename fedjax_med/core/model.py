"""A model as pure functions, and ImageNet's normalisation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt

from fedjax_med.core.types import Array, Examples, Key, Params

Tensors = dict[str, npt.NDArray[Any]]  # the arrays of a file of weights, by name

# Channel means and standard deviations of ImageNet (Russakovsky et al., 2015), on the scale 0 to 1:
# fixed constants, since statistics of the hospitals' own images would have to be shared.
RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class Statistics(NamedTuple):
    """Sums over all clients' training examples, from which some parameters of a model follow.

    Each client computes its own sums, and the server learns no more than their total, before the
    first round (`fedjax_med.execution.statistics`).

    Attributes:
        sums: ``(params, one client's examples [N]) -> pytree of sums``; padding must not count.
        fix: ``(params, the clients' sums added up, float64 on the host) -> params``.
        labelled: whether the sums need the examples' labels, which images to be predicted lack.
    """

    sums: Callable[[Params, Examples], Any]
    fix: Callable[[Params, Any], Params]
    labelled: bool = False


class Model(NamedTuple):
    """A model as pure functions, as returned by every ``models/*.build``.

    Attributes:
        init: ``(key, image_shape (H, W, ch)) -> params``.
        apply: ``(params, images float [B, H, W, ch], key) -> logits float [B, K]``; without a key
            (None) the model runs deterministically, as in evaluation.
        mean: of each channel on the scale 0 to 1, to normalise the images for ``apply``.
        std: of each channel on the scale 0 to 1, to normalise the images for ``apply``.
        colour_constancy: the exponent (6 is usual) of the Minkowski mean over an image's pixels,
            whose colour is made grey before normalisation; 0 leaves the colours unchanged.
        head: the key of the classifier in the parameters.
        pretrained: ``(tensors by name, first params) -> params`` with pretrained weights
            (`fedjax_med.models.pretrained.weights`); None: there are none.
        frozen: the lower blocks as a model that is not trained; its ``apply`` gives this model's
            input; None: all is trained.
        features: ``(params, images float [B, H, W, ch], key) -> float [B, D]``, the classifier's
            input; None: the logits are used instead.
        statistics: what the model takes of all clients' training examples before the first round,
            in order: each sees the parameters that those before it fixed.
        fixed: the keys of the parameters that training leaves unchanged.
        own_statistics: the share, 0 to 1, of the `statistics` of a site's own images, of those that
            need no labels, in the fixed parameters with which its images are predicted.
        networks: the pretrained networks that it contains, each with weights from a source of its
            own, whose tensors ``pretrained`` takes as ``NETWORK/TENSOR``; (): the one network of
            the package of ``imagenet``, or of the file, by the tensors' names alone.
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
    statistics: tuple[Statistics, ...] = ()
    fixed: tuple[str, ...] = ()
    own_statistics: float = 0.0
    networks: tuple[str, ...] = ()
