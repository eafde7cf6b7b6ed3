"""Every client holds only a few classes (McMahan et al., AISTATS 2017)."""

import numpy as np

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import (
    OPTIONS,
    PARTITION,
    Groups,
    Index,
    check_positive,
    deal,
    generator,
)
from fedjax_med.errors import UserError


def check_options(*, k: int = 2) -> None:
    """Refuse clients without a class."""
    check_positive(k=k)


def build(split: Split, groups: Groups, num_clients: int, seed: int, *, k: int = 2) -> list[Index]:
    """Restrict each client to `k` classes and deal each class evenly over its holders.

    Follows the pathological split of McMahan et al. 2017, "Communication-Efficient Learning of
    Deep Networks from Decentralized Data". Every class has a holder. A client may miss one of its
    classes if that class has fewer images than holders.

    Raises:
        UserError: `k` is out of range, ``C * k`` is less than the number of classes, or no
            client may hold an image that has two labels.
    """
    rng = generator(seed, PARTITION)
    classes = rng.permutation(np.unique(split.label))
    if not 1 <= k <= classes.size:
        raise UserError(
            f"labels_per_client: expected 1 <= k <= {classes.size}, the number of classes, "
            f"got {k}: set {OPTIONS}.k."
        )
    if num_clients * k < classes.size:
        raise UserError(
            f"labels_per_client: {num_clients} clients with {k} classes each cannot hold all "
            f"{classes.size} classes: raise {OPTIONS}.k or --config.num_clients."
        )
    # Clients in turn take the next k classes of a cycle, so a client's classes differ, and the
    # numbers of holders of two classes differ by at most 1.
    slots = classes[np.arange(num_clients * k) % classes.size].reshape(num_clients, k)
    allowed = np.zeros((num_clients, int(classes.max()) + 1), bool)
    np.put_along_axis(allowed, slots, True, axis=1)
    return deal(split, groups, allowed, rng)
