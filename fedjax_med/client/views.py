"""The mirrored views of an image that training draws, where all of them are computed before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.client.augmentation import VIEWS, Augment
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key

# The numbers of the views (`augmentation.mirrored`), the most different first: networks see nearly
# the same in an image and its mirror image, and less so in one that is turned and mirrored.
ORDER = (0, 7, 3, 4, 1, 6, 2, 5)


def drawn(augment: Augment) -> tuple[int, ...]:
    """List the views that training draws: the first ``views`` that `augment` can produce."""
    possible = {0, 1} if augment.flip else {0}
    if augment.right_angles:
        possible = set(range(VIEWS)) if augment.flip else {0, 3, 5, 6}
    return tuple(view for view in ORDER if view in possible)[: augment.views]


def needed(augment: Augment, tta_views: int) -> tuple[int, ...]:
    """List the views that training or evaluation uses, those of evaluation first.

    Args:
        augment: the random changes of training.
        tta_views: the number of views over which evaluation averages.
    """
    used = {*drawn(augment), *ORDER[:tta_views]}
    return tuple(view for view in ORDER if view in used)


def choose_view(
    augment: Augment, views: tuple[int, ...] = tuple(range(VIEWS))
) -> Callable[[Array, Key], Array]:
    """Build the function from (features [B, V, h, w, ch], key) to one drawn view of each image.

    Counterpart of `augmentation.build` for the features of frozen blocks
    (`fedjax_med.data.feature_cache`): flip, right angle and copy are drawn; without copies there
    are no other changes.

    Args:
        augment: the random changes.
        views: the views that the features are of; there are V = len(views) * (1 + copies).

    Returns:
        A function that gives float32 [B, h, w, ch].
    """
    copies = range(1 + augment.copies)
    places = [views.index(view) for view in drawn(augment)]
    allowed = [copy * len(views) + place for copy in copies for place in places]

    def prepare(features: Array, key: Key) -> Array:
        # An image's draw does not depend on how many images follow it.
        chosen = jax.random.randint(key, (features.shape[0],), 0, len(allowed))
        index = broadcast_rows(jnp.array(allowed)[chosen], features)
        return jnp.take_along_axis(features, index, axis=1)[:, 0].astype(jnp.float32)

    return prepare
