"""Temperature scaling: probabilities that say how often they are right."""

import numpy as np
from scipy import optimize

from fedjax_med.evaluation.metrics import Floats, Integers, log_loss

_RANGE = (0.05, 20.0)  # of the temperature
_LEAST = 1e-12  # of a probability, or its logarithm would be infinite


def scale(probabilities: Floats, temperature: float) -> Floats:
    """The softmax of the logits over `temperature`; above 1 it makes them less sure.

    Args:
        probabilities: ``[N, K]``; their logarithms are the logits, up to what softmax takes away.
        temperature: above 0.

    Returns:
        float64 ``[N, K]``.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def temperature(probabilities: Floats, labels: Integers) -> float:
    """The temperature with the least log loss (Guo et al., ICML 2017).

    The log loss is a sum over examples: hospitals that each send their sum for a temperature find
    it together, and no prediction leaves its hospital.

    Args:
        probabilities: ``[N, K]``, of examples that were not trained on.
        labels: ``[N]``.

    Returns:
        A number between 0.05 and 20; 1 without examples.
    """
    if not len(labels):
        return 1.0
    found = optimize.minimize_scalar(
        lambda log: log_loss(scale(probabilities, np.exp(log)), labels),
        bounds=np.log(_RANGE),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))
