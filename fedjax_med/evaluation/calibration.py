"""Temperature scaling: calibrates probabilities to match how often they are right."""

import numpy as np
from scipy import optimize

from fedjax_med.evaluation.metrics import Floats, Integers, log_loss

_RANGE = (0.05, 20.0)  # bounds of the temperature
_LEAST = 1e-12  # smallest probability: keeps its logarithm finite


def scale(probabilities: Floats, temperature: float) -> Floats:
    """Return the softmax of the logits divided by `temperature`; above 1 lowers confidence.

    Args:
        probabilities: ``[N, K]``; their logarithms are the logits, up to a constant shift.
        temperature: above 0.

    Returns:
        float64 ``[N, K]``.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def temperature(probabilities: Floats, labels: Integers) -> float:
    """Find the temperature with the lowest log loss (Guo et al., ICML 2017).

    The log loss is a sum over examples: hospitals that each send their sum for a temperature can
    find it jointly, and no prediction leaves its hospital.

    Args:
        probabilities: ``[N, K]``, of examples not used for training.
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
