"""Every client holds a few classes only (McMahan et al., AISTATS 2017)."""

import numpy as np

from fedjax_med.core.types import Split
from fedjax_med.data.partitions import OPTIONS, PARTITION, Groups, Index, deal, generator
from fedjax_med.errors import UserError


def build(split: Split, groups: Groups, num_clients: int, seed: int, *, k: int = 2) -> list[Index]:
    """Let each client hold only `k` classes, and deal each class equally over its holders.

    After the pathological split of McMahan et al. 2017, "Communication-Efficient Learning of
    Deep Networks from Decentralized Data". Every class has a holder. A client may miss one of its
    classes if that has fewer images than holders.

    Raises:
        UserError: `k` is out of range, ``C * k`` is less than the number of classes, or an image
            under two labels fits no client.
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
    # Clients take k at a time, going round the classes: k in a row are different, and no class
    # has two holders more than another.
    slots = classes[np.arange(num_clients * k) % classes.size].reshape(num_clients, k)
    allowed = np.zeros((num_clients, int(classes.max()) + 1), bool)
    np.put_along_axis(allowed, slots, True, axis=1)
    return deal(split, groups, allowed, rng)
