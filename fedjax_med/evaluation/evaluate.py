"""Evaluates a model on examples that a program already holds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.client.augmentation import check_images
from fedjax_med.core.faults import is_finite
from fedjax_med.core.model import Model
from fedjax_med.core.trees import not_finite
from fedjax_med.core.types import Array, Key, Params
from fedjax_med.errors import UserError, check_kind, fitting, some
from fedjax_med.evaluation import metrics
from fedjax_med.evaluation.predict import predict

_BATCH = 64


def evaluate(
    model: Model,
    params: Params,
    images: Any,
    labels: npt.ArrayLike,
    class_names: Sequence[str] = (),
    *,
    tta_views: int = 1,
    prepare: Callable[[Array, Key], Any] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of a model's predictions, with 95 % intervals.

    Args:
        model: the model.
        params: its parameters.
        images: uint8 [N, H, W, 3]; with `prepare` any pytree of arrays with N rows each.
        labels: int [N], from 0 to K - 1.
        class_names: K names; empty: the classes' numbers.
        tta_views: 1, 2, 4 or 8: predictions are means over so many mirrored images.
        prepare: as the loss had it in training, if it had its own: maps inputs and a key (here
            always the same) to the model's input (``lambda inputs, key: inputs``, if they are it
            already); None: normalises images as the model says.

    Returns:
        As `fedjax_med.evaluation.metrics.summarize`: "accuracy", "balanced_accuracy",
        "macro_auroc", "intervals", "per_class", "confusion_matrix" and more.

    Raises:
        UserError: The examples do not fit the model or each other; or the parameters, the prepared
            inputs or the predictions are not finite.
    """
    if tta_views not in (1, 2, 4, 8) or (prepare and tta_views > 1):
        raise UserError(
            f"expected tta_views to be 1, 2, 4 or 8 (1 with `prepare`), got {tta_views}."
        )
    check_kind("the model", model, Model)
    if hasattr(params, "server") or hasattr(params, "state"):
        raise UserError(
            f"expected a model's parameters, got a {type(params).__name__}: give "
            "state.server.params, or simulation.params_of(state, client)."
        )
    inputs = _arrays(images, len(np.atleast_1d(labels)))
    # A compiled relu may turn NaN into 0: the predictions do not show it.
    if wrong := not_finite(params):
        raise UserError(f"expected finite parameters, got NaN or infinity in {some(wrong)}.")
    if prepare is None and isinstance(inputs, np.ndarray) and inputs.ndim == 3:
        check_images(inputs)
    with fitting(jax.tree.map(np.shape, inputs)):
        if prepare is not None:
            probabilities = _predict_prepared(model, params, inputs, prepare)
        elif isinstance(inputs, np.ndarray) and (inputs.ndim == 4 or model.frozen is not None):
            probabilities = predict(model, params, inputs, tta_views)
        else:
            raise UserError(
                f"expected images uint8 [N, H, W, 3], got {jax.tree.map(np.shape, inputs)}: give "
                "`prepare`, which maps these to the model's input (lambda inputs, key: inputs, if "
                "they are it already)."
            )
    names = class_names or [str(number) for number in range(probabilities.shape[1])]
    return metrics.summarize(probabilities, labels, names)


def _arrays(inputs: Any, rows: int) -> Any:
    """Convert the leaves of `inputs` to arrays, as `fedjax_med.data.from_arrays` does."""
    arrays = np.asarray(inputs) if isinstance(inputs, list) else jax.tree.map(np.asarray, inputs)
    for leaf in jax.tree.leaves(arrays) or [np.empty(())]:
        if leaf.ndim == 0 or len(leaf) != rows:
            raise UserError(
                f"expected inputs with {rows} rows, as many as there are labels, got an array of "
                f"shape {list(leaf.shape)}."
            )
    if not rows:
        raise UserError("expected examples to evaluate the model on, got none.")
    return arrays


def _predict_prepared(
    model: Model, params: Params, inputs: Any, prepare: Callable[[Array, Key], Any]
) -> npt.NDArray[Any]:
    """Compute class probabilities [N, K] of inputs that `prepare` makes the model's, in batches."""

    @jax.jit
    def of_batch(batch: Any) -> tuple[Array, Array]:
        prepared = prepare(batch, jax.random.key(0))
        return jax.nn.softmax(model.apply(params, prepared, None)), is_finite(prepared)

    parts = []
    for at in range(0, len(jax.tree.leaves(inputs)[0]), _BATCH):
        batch = jax.tree.map(lambda leaf, at=at: leaf[at : at + _BATCH], inputs)
        predicted, finite = of_batch(batch)
        if not finite:
            raise UserError(
                f"the prepared inputs of the examples {at} to {at + len(predicted) - 1} hold NaN "
                "or infinity: clean the data, or let `prepare` replace what is missing."
            )
        parts.append(np.asarray(predicted))
    return np.concatenate(parts)
