"""EfficientNet-Lite0: EfficientNet-B0 (Tan & Le, ICML 2019) for small devices.

The variant that TensorFlow published in 2020: no squeeze-and-excite, ReLU6 for swish, stem and head
of fixed width. Each convolution has a bias in place of the original's batch normalisation, which
can be folded into it: there are no running statistics that a federation could average wrongly.
"""

import functools

from flax import nnx

from fedjax_med.core.model import Model
from fedjax_med.errors import UserError
from fedjax_med.models import _efficientnet_lite, from_nnx
from fedjax_med.models._efficientnet_lite import LITE0, SMALLEST
from fedjax_med.models._efficientnet_lite import Block as Block

_names_of_lukemelas = functools.partial(_efficientnet_lite.names_of_lukemelas, LITE0)
pretrained = functools.partial(_efficientnet_lite.pretrained, LITE0)


def build(num_classes: int, *, dropout: float = 0.2, frozen_blocks: int = 0) -> Model:
    """Build EfficientNet-Lite0, with 3,350,000 parameters below the classifier for colour images.

    Args:
        num_classes: K, the number of logits.
        dropout: probability that a feature is zeroed before the classifier, in training.
        frozen_blocks: 0 trains all. Above 0 the stem and that many of the 16 blocks keep their
            initial weights, and the trained model's input is their output.

    Raises:
        UserError: An option is out of range or, in ``init``, the image is too small.
    """
    if not 0 <= dropout < 1:
        raise UserError(
            f"expected model efficientnet_lite0 to have dropout in [0, 1), got {dropout}."
        )
    if not 0 <= frozen_blocks <= LITE0.num_blocks:
        raise UserError(
            f"expected model efficientnet_lite0 to have 0 to {LITE0.num_blocks} frozen_blocks, got "
            f"{frozen_blocks}."
        )

    def make(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return _efficientnet_lite.EfficientNetLite(
            LITE0, channels, num_classes, dropout, rngs, frozen_blocks
        )

    def make_frozen(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return _efficientnet_lite.Frozen(LITE0, channels, frozen_blocks, rngs)

    of_imagenet = functools.partial(_efficientnet_lite.of_imagenet, of=LITE0)
    if not frozen_blocks:
        return of_imagenet(from_nnx(make, *SMALLEST, tells_features=True))
    frozen = of_imagenet(from_nnx(make_frozen, *SMALLEST))
    return of_imagenet(from_nnx(make, tells_features=True))._replace(frozen=frozen)
