"""Label flipping: hostile clients train on wrong labels.

Tolpegin et al., ESORICS 2020, "Data poisoning attacks against federated learning systems".
"""

import jax.numpy as jnp

from fedjax_med.core.faults import Attack
from fedjax_med.core.types import Examples, Key
from fedjax_med.errors import UserError


def build(
    num_classes: int, *, clients: tuple[int, ...] = (0,), source: int = -1, target: int = -1
) -> Attack:
    """Build the attack: label k becomes K - 1 - k or, as in the paper, `source` becomes `target`.

    With an odd number of classes, the one in the middle keeps its label.

    Args:
        num_classes: K.
        clients: ids of the hostile clients.
        source: the class whose examples are relabelled; -1, as `target` then is: all classes.
        target: their new label.

    Raises:
        UserError: `source` and `target` are neither both -1 nor two different classes.
    """
    classes = range(num_classes)
    one_class = source in classes and target in classes and source != target
    if not one_class and not source == target == -1:
        raise UserError(
            "expected attack label_flip to have source and target both -1, or two different "
            f"classes among 0 to {num_classes - 1}, got source={source}, target={target}."
        )

    def examples(examples: Examples, key: Key) -> Examples:
        del key  # nothing is random here
        label = examples.label
        if one_class:
            flipped = jnp.where(label == source, target, label)
        else:
            flipped = num_classes - 1 - label
        return examples._replace(label=jnp.where(examples.mask, flipped, label))

    return Attack(tuple(clients), examples=examples)
