"""Temperature scaling: calibrates probabilities to match how often they are right."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from fedjax_med.evaluation.metrics import Floats, Integers, log_loss

_RANGE = (0.05, 20.0)  # bounds of the temperature
LEAST = 1e-12  # smallest probability: keeps its logarithm finite
_SPREAD = 0.25  # prior standard deviation of log T: without data, T is in 0.6 to 1.6 at 95 %
_FEW = 50  # predictions below which the prior decides about as much as they do
_FEW_WRONG = 10  # wrong predictions below which they do not tell how many there will be elsewhere


def scale(probabilities: Floats, temperature: float) -> Floats:
    """Return the softmax of the logits divided by `temperature`; above 1 lowers confidence.

    Args:
        probabilities: ``[N, K]``; their logarithms are the logits, up to a constant shift.
        temperature: above 0.

    Returns:
        float64 ``[N, K]``.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def client_loss(probabilities: Floats, labels: Integers, temperature: float) -> float:
    """Add up the log losses of one client's own examples, scaled by `temperature`.

    This sum is all that leaves a hospital for each temperature that the server tries.

    Args:
        probabilities: ``[N, K]``, of the client's examples.
        labels: ``[N]``.
        temperature: above 0.
    """
    if not len(labels):
        return 0.0
    return len(labels) * float(log_loss(scale(probabilities, temperature), labels))


def temperature(
    probabilities: Floats, labels: Integers, sizes: Sequence[int] | Integers | None = None
) -> float:
    """Find the most probable temperature T, for a normal prior on log T around 0.

    The temperature with the lowest log loss (Guo et al., ICML 2017) has no bound where predictions
    are few or all right: any sharpening then helps. The prior, of standard deviation 0.25, counts
    about as much as a few tens of predictions, and leaves T to the data where there are hundreds.
    Where there is a `doubt` T is at least 1: confidence that rests on the lack of errors among
    these examples would cost much wherever errors are more frequent.

    The search needs only the sums of the clients' losses (`client_loss`) at each temperature.

    Args:
        probabilities: ``[N, K]``, of examples not used for training.
        labels: ``[N]``.
        sizes: ``[C]``, the examples of each client, in order; None: one client has all.

    Returns:
        A number between 0.05 and 20; 1 without examples.
    """
    if not len(labels):
        return 1.0
    ends = np.cumsum([len(labels)] if sizes is None else sizes)[:-1]
    clients = list(zip(np.split(probabilities, ends), np.split(labels, ends), strict=True))

    def minus_log_posterior(log: float) -> float:
        total = sum(client_loss(*own, float(np.exp(log))) for own in clients)
        return total + 0.5 * (log / _SPREAD) ** 2

    found = optimize.minimize_scalar(
        minus_log_posterior, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-4}
    )
    least = 1.0 if doubt(probabilities, labels) else 0.0
    return max(float(np.exp(found.x)), least)


def doubt(probabilities: Floats, labels: Integers) -> str:
    """Say why these predictions determine no temperature; empty if they do.

    Args:
        probabilities: ``[N, K]``, what `temperature` is given.
        labels: ``[N]``.
    """
    count = len(labels)
    if not count:
        return "no validation images"
    if count < _FEW:
        return f"only {count} validation image{'s'[: count > 1]}, expected at least {_FEW}"
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    if not wrong:
        return f"all {count} validation images are predicted right"
    if wrong < _FEW_WRONG:
        return (
            f"only {wrong} of {count} validation images {'are' if wrong > 1 else 'is'} predicted "
            f"wrong, expected at least {_FEW_WRONG}"
        )
    return ""
