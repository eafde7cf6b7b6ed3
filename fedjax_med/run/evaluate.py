"""Evaluates a run's model on the held-out test set, from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.model import Model
from fedjax_med.core.types import Params
from fedjax_med.data.dataset import Split
from fedjax_med.data.federation import Federation
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation import (
    calibration,
    metrics,
    operating_runs,
    per_client,
    predictions,
    tables,
)
from fedjax_med.evaluation.per_client import summarize_predictions
from fedjax_med.evaluation.predict import (
    Models,
    Validation,
    pool,
    predict,
    predict_test,
    predict_validation,
)
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.execution.compilation import own_models
from fedjax_med.execution.statistics import at_site
from fedjax_med.experiment import config
from fedjax_med.experiment.plan import Plan, compile_plan
from fedjax_med.files import writing
from fedjax_med.privacy.plan import to_json
from fedjax_med.run.load import LoadedRun, restore

CHECKPOINTS = ("best", "last")
_OWN = {"accuracy": metrics.accuracy, "balanced_accuracy": metrics.balanced_accuracy}
_CALIBRATED = ("ece", "brier", "log_loss")  # the metrics that a temperature changes much


def check_test(data: Federation) -> None:
    """Refuse to evaluate without a test set.

    Raises:
        UserError: There are no test images.
    """
    if not data.test.num_examples:
        raise UserError(
            "the data set has no test images to evaluate on: expected a folder Test/<class>/ "
            "beside Train/, or of a table test rows or --config.dataset.options.test_fraction=0.2 "
            "(train without --evaluate needs none)."
        )


def which_checkpoint(given: str, experiment: config.Experiment) -> str:
    """Return the checkpoint to evaluate: `given`, or the experiment's choice if that is empty.

    Raises:
        UserError: The checkpoint is neither ``best`` nor ``last``.
    """
    which = given or experiment.checkpoint.tested
    check_name(which, CHECKPOINTS, "the checkpoints to evaluate")
    return which


def evaluate_checkpoint(workdir: Path, plan: Plan, data: Federation, which: str) -> dict[str, Any]:
    """Evaluate a run on the test set, from the checkpoint that `which` names.

    Args:
        workdir: of the run; gets ``evaluation.json``, ``predictions.csv`` and
            ``confusion_matrix.png``.
        plan: of the run.
        data: the run's data.
        which: ``best`` (by validation) or ``last``; empty: the experiment's choice.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        UserError: There is no test set or no sound checkpoint, or the workdir cannot be written.
    """
    which = which_checkpoint(which, plan.experiment)
    check_test(data)
    state, done = restore(LoadedRun(workdir, plan, data), which)
    evaluation, predictions = _evaluate(plan, state, data)
    evaluation = {
        "round": int(state.round),
        "checkpoint": which,
        "config": plan.experiment.name,
        "seed": plan.experiment.seed,
        "test_set": data.test_set,
        **evaluation,
        # Privacy is spent by all rounds done, whichever round the model is from.
        **to_json(plan.privacy, done),
    }
    # Written first: what is printed into a closed pipe, or on a full disk, ends the command.
    group = data.test.group if "groups" in evaluation else None
    written = _write(workdir, evaluation, predictions, data.class_names, group)
    _say_which(workdir, evaluation, done, plan.last_round)
    print(f"Written: {', '.join(map(str, written))}")
    return evaluation


def _say_which(workdir: Path, evaluation: dict[str, Any], done: int, last: int) -> None:
    best = evaluation["checkpoint"] == "best"
    chosen = "the best of those kept, by validation" if best else "the last one kept"
    print(f"{workdir}: the model of round {evaluation['round']}, {chosen}.")
    if done < last:
        print(f"The run is not complete: {done} of {last} rounds are saved.")
    print(f"\n{tables.table(evaluation)}")


def _write(
    workdir: Path,
    evaluation: dict[str, Any],
    given: Predictions,
    class_names: Sequence[str],
    group: npt.NDArray[np.str_] | None,
) -> list[Path]:
    from fedjax_med.evaluation import plots  # here: it loads matplotlib

    with writing(workdir):
        tables.write_json(evaluation, workdir / "evaluation.json")
        predictions.write(given, class_names, workdir / predictions.NAME, group)
        plots.confusion_matrix_png(evaluation, workdir / "confusion_matrix.png")
    names = ("evaluation.json", predictions.NAME, "confusion_matrix.png")
    return [workdir / name for name in names]


def _evaluate(
    plan: Plan, state: FederatedState, data: Federation
) -> tuple[dict[str, Any], Predictions]:
    experiment, model = plan.experiment, plan.model
    test, names = data.test, data.class_names
    models: Models = state.server.params
    if plan.process.algorithm.personal_params is not None:
        models = own_models(compile_plan(plan), state)
    probabilities, own = _test_predictions(model, models, data, experiment)
    held = pool(data.validation)
    validation = predict_validation(model, models, held, experiment.tta_views)
    calibrated: dict[str, Any] = {}
    if experiment.calibrate:
        fitted = validation, held.label.astype(np.int64), held.sizes
        before = metrics.summarize(probabilities, test.label, names)
        probabilities, calibrated = _calibrate(probabilities, before, *fitted)
    found = Predictions(test.name, test.client, test.label, probabilities)
    evaluation = summarize_predictions(found, names, data.sites, test.group) | calibrated | own
    if test.group is not None and data.mates is not None:
        evaluation["groups"] |= per_client.without_mates(found, test.group, data.mates)
    scaled = validation  # by the same temperature as the test images
    if calibrated and len(validation):
        scaled = calibration.scale(validation, calibrated["temperature"])
    _add_operating(evaluation, experiment, data, found, scaled, held)
    if backdoors := _backdoors(plan, models, data):
        evaluation["backdoors"] = backdoors
    if len(held.label):
        evaluation["validation"] = per_client.validation_metrics(validation, held.label, held.sizes)
        absent = per_client.absent_classes(held.label, held.sizes, names)
        evaluation["clients"] = evaluation["validation"]["clients"] | {"absent_classes": absent}
        evaluation["client_names"] = list(data.names)
    return evaluation, found


def _add_operating(
    evaluation: dict[str, Any],
    experiment: config.Experiment,
    data: Federation,
    found: Predictions,
    validation: npt.NDArray[np.floating],
    held: Validation,
) -> None:
    """Add the operating points asked for, and what they do without group mates in Train.

    Args:
        evaluation: gets them.
        experiment: what is asked for.
        data: of the run.
        found: the predictions of the test images.
        validation: the probabilities of the clients' validation images, as `found` has them.
        held: these images.
    """
    asked, names, test = experiment.operating, data.class_names, data.test
    if not asked.classes:
        return
    chosen = operating_runs.points(asked, names, validation, held.label, held.sizes)
    evaluation["operating"] = operating_runs.of_run(found, test.group, names, chosen, asked)
    without = evaluation.get("groups", {}).get("without_mates", {})
    if data.mates is not None and without.get("n"):
        image, client, label, probabilities = found
        alone = ~data.mates
        rest = Predictions(image[alone], client[alone], label[alone], probabilities[alone])
        group = None if test.group is None else test.group[alone]
        without["operating"] = operating_runs.of_run(rest, group, names, chosen, asked)


def _calibrate(
    probabilities: Any, before: dict[str, Any], validation: Any, label: Any, sizes: Any
) -> tuple[Any, dict[str, Any]]:
    """Scale the test images' `probabilities` by the temperature of the validation predictions.

    Returns the probabilities, and what the evaluation says of their calibration.
    """
    temperature = calibration.temperature(validation, label, sizes)
    calibrated = {
        "temperature": temperature,
        "before_calibration": {name: before[name] for name in _CALIBRATED},
    }
    if doubt := calibration.doubt(validation, label):
        calibrated["calibration_doubt"] = doubt
    return calibration.scale(probabilities, temperature), calibrated


def _test_predictions(
    model: Model, models: Models, data: Federation, experiment: config.Experiment
) -> tuple[Any, dict[str, Any]]:
    """Predict the test images' probabilities [N, K], and score each personal model on them.

    With personal models, each image is predicted by its client's model if all images belong to
    clients, else by the mean of all models' probabilities.
    """
    test, clients_ = data.test, experiment.num_clients
    if model.own_statistics and not callable(models):
        return _predict_at_sites(model, models, test, experiment.tta_views), {}
    each = predict_test(model, models, test, clients_, experiment.tta_views)
    if not callable(models):
        return each, {}
    known = (test.client >= 0).all()
    whole = each[test.client, np.arange(test.num_examples)] if known else each.mean(axis=0)
    label = test.label.astype(np.int64)
    rows = {
        name: [metrics.number(metric(one.astype(np.float64), label)) for one in each]
        for name, metric in _OWN.items()
    }
    return whole, {"own_models": rows}


def _predict_at_sites(model: Model, params: Params, test: Split, views: int) -> Any:
    """Predict each site's images with its own share of the model's statistics: float [N, K].

    Images that belong to no client are those of one site.
    """
    parts = [np.flatnonzero(test.client == site) for site in np.unique(test.client)]
    predicted = [
        predict(model, at_site(model, params, split), split.image, views)
        for split in map(test.take, parts)
    ]
    order = np.argsort(np.concatenate(parts))
    return np.concatenate(predicted)[order]


def _backdoors(plan: Plan, models: Models, data: Federation) -> list[dict[str, Any]]:
    """Compute for each backdoor the share of other classes' images moved to its target class."""
    trained, tta_views = plan.trained, plan.experiment.tta_views
    found = []
    for spec, attack in zip(trained.attacks, plan.process.faults.attacks, strict=True):
        others = data.test.take(data.test.label != attack.target)
        if attack.trigger is None or not others.num_examples:
            continue
        triggered = np.asarray(attack.trigger(jnp.asarray(np.asarray(others.image))))
        split = others._replace(image=triggered)
        each = predict_test(plan.model, models, split, trained.num_clients, tta_views)
        if each.ndim == 3:  # harm to the attackers' personal models does not count
            each = np.delete(each, list(attack.clients), axis=0)
        taken = each.reshape(-1, each.shape[-1]).argmax(axis=-1) == attack.target
        if taken.size:
            row = {"attack": spec.name, "target": data.class_names[attack.target]}
            found.append(row | {"n": others.num_examples, "success": float(taken.mean())})
    return found
