"""evaluates the global model on the held-out test set, from the checkpoint.

Writes evaluation.json, predictions.csv and confusion_matrix.png into the workdir and prints a
table; of several workdirs (one experiment under several seeds, say) also the mean and standard
deviation.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from fedjax_med.cli.flags import define_checkpoint, define_data
from fedjax_med.core.types import Model
from fedjax_med.data import client_data
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation import calibration, metrics, per_client, tables
from fedjax_med.evaluation import predictions as predicted
from fedjax_med.evaluation.predict import Models, pool, predict_test, predict_validation
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.experiment import build, config, load_data, privacy_plan, resolve
from fedjax_med.files import writing
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.loop import last_round
from fedjax_med.run.provenance import identity
from fedjax_med.run.resume import no_checkpoint
from fedjax_med.run.workdir import read_workdir

CHECKPOINTS = ("best", "last")
_OWN = {"accuracy": metrics.accuracy, "balanced_accuracy": metrics.balanced_accuracy}
_CALIBRATED = ("ece", "brier", "log_loss")  # what a temperature changes much


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """The flags of this command."""
    define_data(flags)
    absl_flags.DEFINE_list(
        "workdir", [], "the workdir of a trained run, or several with commas", flag_values=flags
    )
    define_checkpoint(flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Evaluate the workdir's checkpoint; returns the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    if flags.checkpoint:  # what the experiment says is for later, when it is read
        check_name(flags.checkpoint, CHECKPOINTS, "the checkpoints to evaluate")
    evaluations = [
        _load_and_evaluate(Path(workdir).expanduser(), flags) for workdir in flags.workdir
    ]
    if len(evaluations) > 1:
        print(f"\nAll {len(evaluations)} runs:\n\n{tables.markdown(evaluations)}")
    return 0


def load(
    workdir: Path, flags: absl_flags.FlagValues
) -> tuple[dict[str, Any], load_data.Federation]:
    """What a run said of itself, and its data.

    Args:
        workdir: of the run.
        flags: of a command that has those of `fedjax_med.cli.flags.define_data`.

    Raises:
        UserError: There is no run, or the data is not what it was trained on.
    """
    saved = read_workdir(workdir)
    experiment = resolve.complete(config.from_dict(saved["experiment"]))
    cache_dir = flags.cache_dir
    if not flags["cache_dir"].present:
        cache_dir = saved.get("cache_dir", cache_dir)
    try:
        data = load_data.load(experiment, flags.data_dir or saved["data_dir"], cache_dir)
    except UserError as error:
        if not experiment.partition.options.get("path"):
            raise
        raise UserError(
            f"{error} (If the table has moved: give the `train` command once more, with its new "
            "place.)"
        ) from error
    if data.digest != saved["data"]:
        raise UserError(
            f"the train images or their division differ from those that {workdir} was trained on "
            "(by most policies train images that are also in Test leave). Give --data_dir=FOLDER "
            "with the same data."
        )
    return saved, data


def _load_and_evaluate(workdir: Path, flags: absl_flags.FlagValues) -> dict[str, Any]:
    saved, data = load(workdir, flags)
    if saved.get("test", data.test_digest) != data.test_digest:
        print(f"The test images are not those that were there when {workdir} was trained.")
    return evaluate_workdir(workdir, data, flags.checkpoint)


def check_test(data: load_data.Federation) -> None:
    """Refuse to evaluate without a test set.

    Raises:
        UserError: There are no test images.
    """
    if not data.test.num_examples:
        raise UserError(
            "the data set has no test images to evaluate on: expected a folder Test/<class>/ "
            "beside Train/ (train without --evaluate needs none)."
        )


def which_checkpoint(given: str, experiment: config.Experiment) -> str:
    """The checkpoint to evaluate: the one that is `given`, or what the experiment says.

    Raises:
        UserError: It is neither ``best`` nor ``last``.
    """
    which = given or experiment.checkpoint.tested
    check_name(which, CHECKPOINTS, "the checkpoints to evaluate")
    return which


def evaluate_workdir(workdir: Path, data: load_data.Federation, which: str) -> dict[str, Any]:
    """Evaluate the checkpoint of `workdir` that `which` names on `data`'s test set.

    Args:
        workdir: of a `train` run; gets ``evaluation.json`` and ``confusion_matrix.png``.
        data: the run's data.
        which: ``best`` (by validation) or ``last``; empty is what the experiment says.

    Returns:
        What ``evaluation.json`` says.

    Raises:
        UserError: There is no test set or no sound checkpoint, or the workdir cannot be written.
    """
    saved = read_workdir(workdir)
    experiment = resolve.complete(config.from_dict(saved["experiment"]))
    which = which_checkpoint(which, experiment)
    check_test(data)
    counts = client_data.class_counts(data.train, len(data.class_names)).sum(axis=0)
    noise = saved.get("privacy", {}).get("noise_multiplier")
    promise = privacy_plan.promise(experiment, data.train.sizes, noise)
    last = last_round(experiment, promise)
    checkpoints = Checkpoints(workdir, experiment.checkpoint, read_only=True)
    try:
        before = checkpoints.strategy()
        assembly = build.assemble(experiment, len(data.class_names), counts, before)
        tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
        best = functools.partial(checkpoints.best_first, last)
        order = best if which == "best" else checkpoints.latest_first
        restored = checkpoints.restore(lambda: assembly.init(data.train.shapes()), tag, order)
        done = max(checkpoints.rounds(), default=0)
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(no_checkpoint(workdir, done))
    evaluation, predictions = _evaluate(assembly, restored.state, data, experiment)
    evaluation = {
        "round": int(restored.state.round),
        "checkpoint": which,
        "config": experiment.name,
        "seed": experiment.seed,
        **evaluation,
    }
    chosen = "the best of those kept, by validation" if which == "best" else "the last one kept"
    print(f"{workdir}: the model of round {evaluation['round']}, {chosen}.")
    if done < last:
        print(f"The run is not complete: {done} of {last} rounds are saved.")
    # All rounds that are done count, whichever of them the model is of.
    evaluation |= privacy_plan.tag(promise, done)
    print(f"\n{tables.table(evaluation)}")
    from fedjax_med.evaluation import plots  # here: it loads matplotlib

    with writing(workdir):
        tables.write_json(evaluation, workdir / "evaluation.json")
        predicted.write(predictions, data.class_names, workdir / predicted.NAME)
        plots.confusion_matrix_png(evaluation, workdir / "confusion_matrix.png")
    written = ("evaluation.json", predicted.NAME, "confusion_matrix.png")
    print(f"Written: {', '.join(str(workdir / name) for name in written)}")
    return evaluation


def of_predictions(
    predictions: Predictions, class_names: Sequence[str], sites: Sequence[str]
) -> dict[str, Any]:
    """What ``evaluation.json`` says of the test images, and of each client's if they have owners.

    Args:
        predictions: of the test images.
        class_names: ``K`` names.
        sites: of the clients; () where they have none.

    Raises:
        UserError: There are no images, or the probabilities are none.
    """
    _, client, label, probabilities = predictions
    evaluation = metrics.summarize(probabilities, label, class_names)
    if (client >= 0).all():
        order = np.argsort(client, kind="stable")
        sizes = np.bincount(client, minlength=len(sites))
        found = per_client.validation_metrics(probabilities[order], label[order], sizes)["clients"]
        absent = per_client.absent_classes(label[order], sizes, class_names)
        evaluation["sites"] = found | {"absent_classes": absent}
        evaluation["site_names"] = list(sites)
    return evaluation


def _evaluate(
    assembly: build.Assembly,
    state: Any,
    data: load_data.Federation,
    experiment: config.Experiment,
) -> tuple[dict[str, Any], Predictions]:
    test, names, model = data.test, data.class_names, assembly.model
    models: Models = state.server.params
    if assembly.personal is not None:
        models = build.own_models(assembly, state)
    probabilities, own = _test_predictions(model, models, data, experiment)
    held = pool(data.validation)
    validation = predict_validation(model, models, held, experiment.views)
    calibrated: dict[str, Any] = {}
    if experiment.calibrate:
        before = metrics.summarize(probabilities, test.label, names, num_resamples=0)
        temperature = calibration.temperature(validation, held.label.astype(np.int64))
        probabilities = calibration.scale(probabilities, temperature)
        calibrated = {
            "temperature": temperature,
            "before_calibration": {name: before[name] for name in _CALIBRATED},
        }
    predictions = Predictions(test.name, test.client, test.label, probabilities)
    evaluation = of_predictions(predictions, names, data.sites) | calibrated | own
    if backdoors := _backdoors(assembly, models, data, experiment):
        evaluation["backdoors"] = backdoors
    if len(held.label):
        evaluation["validation"] = per_client.validation_metrics(validation, held.label, held.sizes)
        absent = per_client.absent_classes(held.label, held.sizes, names)
        evaluation["clients"] = evaluation["validation"]["clients"] | {"absent_classes": absent}
        evaluation["client_names"] = list(data.names)
    return evaluation, predictions


def _test_predictions(
    model: Model, models: Models, data: load_data.Federation, experiment: config.Experiment
) -> tuple[Any, dict[str, Any]]:
    """Probabilities [N, K] of the test images, and how good each client's own model is on them.

    Where clients have models of their own and each image is a client's, it is for its model; else
    images are for all models: the mean of their probabilities.
    """
    test, clients_ = data.test, experiment.num_clients
    each = predict_test(model, models, test, clients_, experiment.views)
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


def _backdoors(
    assembly: build.Assembly,
    models: Models,
    data: load_data.Federation,
    experiment: config.Experiment,
) -> list[dict[str, Any]]:
    """Of each backdoor attack, the share of images of other classes that its trigger moves."""
    if experiment.setting != "federated":  # nobody attacks there
        return []
    found = []
    for spec, attack in zip(experiment.attacks, assembly.method.conditions.attacks, strict=True):
        others = data.test.take(data.test.label != attack.target)
        if attack.trigger is None or not others.num_examples:
            continue
        triggered = np.asarray(attack.trigger(jnp.asarray(np.asarray(others.image))))
        split = others._replace(image=triggered)
        each = predict_test(assembly.model, models, split, experiment.num_clients, experiment.views)
        if each.ndim == 3:  # the attackers' own models are their own affair
            each = np.delete(each, list(attack.clients), axis=0)
        taken = each.reshape(-1, each.shape[-1]).argmax(axis=-1) == attack.target
        if taken.size:
            row = {"attack": spec.name, "target": data.class_names[attack.target]}
            found.append(row | {"n": others.num_examples, "success": float(taken.mean())})
    return found
