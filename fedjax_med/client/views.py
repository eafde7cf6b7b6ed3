"""The mirrored views of an image that training draws, where all of them are computed before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.client.augmentation import VIEWS, Augment
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key


def _views(augment: Augment) -> tuple[int, ...]:
    """List the mirrored views that the random changes of `augment` can produce."""
    if augment.right_angles:
        return tuple(range(VIEWS)) if augment.flip else (0, 3, 5, 6)
    return (0, 1) if augment.flip else (0,)


def views_needed(augment: Augment, tta_views: int) -> int:
    """Count the first mirrored views (`mirrored`) that training or evaluation uses: 1, 2, 4 or 8.

    Args:
        augment: the random changes of training.
        tta_views: the number of views over which evaluation averages.
    """
    return max(1 << max(_views(augment)).bit_length(), tta_views)


def choose_view(augment: Augment) -> Callable[[Array, Key], Array]:
    """Build the function from (features [B, V, h, w, ch], key) to one drawn view of each image.

    Counterpart of `build` for the features of frozen blocks (`fedjax_med.data.feature_cache`):
    flip, right angle and copy are drawn; without copies there are no other changes.

    Args:
        augment: the random changes; V is `views_needed` times (1 + its ``copies``).

    Returns:
        A function that gives float32 [B, h, w, ch].
    """

    def prepare(features: Array, key: Key) -> Array:
        mirrors = features.shape[1] // (1 + augment.copies)
        copies = range(1 + augment.copies)
        views = [copy * mirrors + view for copy in copies for view in _views(augment)]
        # An image's draw does not depend on how many images follow it.
        drawn = jax.random.randint(key, (features.shape[0],), 0, len(views))
        index = broadcast_rows(jnp.array(views)[drawn], features)
        return jnp.take_along_axis(features, index, axis=1)[:, 0].astype(jnp.float32)

    return prepare
