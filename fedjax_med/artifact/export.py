"""Writes a run's model as a bundle, whole or not at all."""

import datetime
import functools
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.artifact import bundle, card, form, predict, program, tensors, trained
from fedjax_med.artifact.trained import Trained
from fedjax_med.core.model import Tensors
from fedjax_med.errors import UserError
from fedjax_med.evaluation import operating_runs, tables
from fedjax_med.experiment import config
from fedjax_med.files import make_folder, sync, sync_tree, unreadable
from fedjax_med.files.unfinished import unfinished
from fedjax_med.run.evaluate import which_checkpoint
from fedjax_med.run.load import SavedRun, read_run
from fedjax_med.run.provenance import code_version

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_MANY = 50  # clients; of more only the sum is told
_FIGURES = ("n", *tables.HEADLINES, "intervals")


class Evaluated(NamedTuple):
    """What the run's evaluation says of the exported model.

    Attributes:
        content: of evaluation.json; {} if it is of another model.
        reason: why there are no figures; "" if there are.
    """

    content: dict[str, Any]
    reason: str


def check_folder(out: Path) -> None:
    """Refuse a folder that exists and is not empty.

    Raises:
        UserError: It is one, or a file.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"--out={out} exists and is not an empty folder: give another or remove it."
        )


def export(
    workdir: Path,
    out: Path,
    *,
    checkpoint: str = "",
    of_license: str = "unknown",
    cluster: int = -1,
    with_program: bool = True,
    allowed: Collection[str] = (),
) -> dict[str, Any]:
    """Write the global model of a run, and all that prediction needs, into the folder `out`.

    Args:
        workdir: of the run; its training data need not be there.
        out: a new or empty folder.
        checkpoint: ``best`` (by validation) or ``last``; empty: the experiment's choice.
        of_license: of the model, such as ``apache-2.0``.
        cluster: of a clustered run the number of the model.
        with_program: whether the compiled program is written, too.
        allowed: components of the run from elsewhere whose code may run.

    Returns:
        The content of ``bundle.json``.

    Raises:
        UserError: There is no run or no sound checkpoint; the experiment wants a calibration or
            operating points, and the run's evaluation is missing or of another model; the license
            is no identifier; the program differs from the model; or `out` cannot be written.
    """
    check_folder(out)
    if not _LICENSE.fullmatch(of_license):
        raise UserError(
            "expected --license as an identifier of up to 64 letters, digits and . + - _, such as "
            f"apache-2.0, got {of_license!r}."
        )
    run = read_run(workdir, allowed)
    experiment = run.resolved.asked
    which = which_checkpoint(checkpoint, experiment)
    names = _class_names(run)
    shapes = bundle.shapes(run.resolved.trained, len(names))
    model = trained.read(run, shapes, which, cluster)
    evaluated = _evaluated(run, model, which)
    info = {
        "format": form.FORMAT,
        "version": form.VERSION,
        "experiment": config.to_dict(experiment),
        "class_names": names,
        "preprocessing": bundle.preparation(run.resolved.trained, shapes.below or shapes.model),
        "tta_views": experiment.tta_views,
        **_reported(experiment, evaluated),
        "training": _training(run, evaluated.content),
        "privacy": _promise(experiment, model),
        "provenance": _provenance(run, model, which, cluster),
        "license": of_license,
        "program": None,
    }
    compiled = b""
    if with_program:
        whole = bundle.assembled(out, info, shapes, model.tensors)
        compiled, info["program"] = program.build(whole, predict.predict_pixels)
    write(out, info, model.tensors, compiled)
    return info


def _class_names(run: SavedRun) -> list[str]:
    """Return the names of the classes, which earlier versions left to the evaluation alone."""
    names = run.saved.get("class_names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and names:
        return list(names)
    return list(_read_evaluation(run.workdir)["per_class"])


def _read_evaluation(workdir: Path) -> dict[str, Any]:
    """Read the evaluation of a run, with what a bundle tells of it.

    Raises:
        UserError: There is none, or it is damaged.
    """
    file = workdir / "evaluation.json"
    content = tables.read_evaluation(file)
    operating_runs.read(workdir)
    for name in ("per_class", "intervals"):
        if not isinstance(content.get(name), dict):
            reason = ValueError(f"{name} is not what `evaluate` writes")
            raise unreadable(file, reason, "Evaluate the run again.")
    return content


def _evaluated(run: SavedRun, model: Trained, which: str) -> Evaluated:
    """Read the run's evaluation, if it is of this model.

    Raises:
        UserError: It is not, and the experiment wants a calibration or operating points.
    """
    experiment, file = run.resolved.asked, run.workdir / "evaluation.json"
    if trained.has_own_models(run.resolved.trained)[0]:
        return Evaluated({}, "the run's figures are of its clients' own models, not of this one")
    wanted = _wanted(experiment)
    if not file.exists():
        reason = "the run was not evaluated"
    else:
        content = _read_evaluation(run.workdir)
        of = content.get("round")
        if of == model.round and all(name in content for name in wanted):
            return Evaluated(content, "")
        reason = f"the run's evaluation is of round {of}, and the model of round {model.round}"
        if of == model.round:
            reason = f"the run's evaluation lacks its {' and its '.join(wanted)}"
    if wanted:
        raise UserError(
            f"{run.workdir}: {reason}, and the bundle needs its {' and its '.join(wanted)}: run "
            f"`fedjax-med evaluate --workdir={run.workdir} --checkpoint={which}` first."
        )
    return Evaluated({}, reason)


def _wanted(experiment: config.Experiment) -> list[str]:
    """List what a bundle must have from the evaluation."""
    calibrated = ["temperature"] if experiment.calibrate else []
    return calibrated + (["operating"] if experiment.operating.classes else [])


def _reported(experiment: config.Experiment, evaluated: Evaluated) -> dict[str, Any]:
    """Return calibration, operating points and figures, as far as there are any."""
    of, wanted = evaluated.content, _wanted(experiment)
    points = of["operating"] if of and "operating" in wanted else None
    figures = {
        name: of[name]
        for name in (*_FIGURES, "round", "checkpoint", "test_set", "per_class")
        if name in of
    }
    return {
        "temperature": of["temperature"] if of and "temperature" in wanted else None,
        "calibration_doubt": of.get("calibration_doubt", ""),
        "operating": points
        and {
            "specificity": points["specificity"],
            "prevalence": points["prevalence"],
            "classes": {
                name: {key: row.get(key) for key in ("threshold", "validation_others", "reason")}
                for name, row in points["classes"].items()
            },
        },
        "evaluation": figures or None,
        "no_evaluation": evaluated.reason,
    }


def _promise(experiment: config.Experiment, model: Trained) -> dict[str, Any]:
    """Return what is promised of the training images, once the bundle is known to all."""
    if model.privacy and experiment.privacy.noise_from != "secret":
        reason = "its noise follows from the seed, which is in bundle.json"
        return {"promised": False, "reason": reason}
    return {"promised": bool(model.privacy), **model.privacy}


def _training(run: SavedRun, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return how many hospitals took part, and the images that each trained on, if known."""
    sizes = run.saved.get("train_sizes")
    known = isinstance(sizes, list) and all(type(size) is int for size in sizes)
    counts = list(sizes) if known and isinstance(sizes, list) else []
    clients = len(counts) or run.resolved.trained.num_clients
    return {
        "setting": run.resolved.asked.setting,
        "clients": clients,
        "images": sum(counts) if counts else None,
        "images_by_client": counts if len(counts) <= _MANY else None,
    }


def _provenance(run: SavedRun, model: Trained, which: str, cluster: int) -> dict[str, Any]:
    saved = run.saved
    weights = {"weights": saved["weights"]} if "weights" in saved else {}
    return {
        "trained_by": model.code or saved.get("code"),
        "exported_by": code_version(),
        "exported": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "round": model.round,
        "rounds_done": model.done,
        "checkpoint": which,
        **({"cluster": cluster} if cluster >= 0 else {}),
        "data": saved["data"],
        "test": saved.get("test"),
        "test_set": saved.get("test_set"),
        "pretrained": run.resolved.trained.pretrained,
        **weights,
    }


def write(out: Path, info: dict[str, Any], values: Tensors, compiled: bytes = b"") -> None:
    """Write a bundle beside `out`, then rename it: `out` is complete or absent.

    Args:
        out: a new or empty folder.
        info: the content of ``bundle.json`` but ``files``, which is added.
        values: the tensors by name.
        compiled: the program; empty: there is none.

    Raises:
        UserError: `out` cannot be written.
    """
    try:
        make_folder(out.parent)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        try:
            with unfinished(functools.partial(shutil.rmtree, beside, ignore_errors=True)):
                folder = beside / "bundle"
                folder.mkdir()
                tensors.write(folder / form.TENSORS, values)
                if compiled:
                    (folder / form.PROGRAM).write_bytes(compiled)
                (folder / form.CARD).write_text(card.text(info, out.name), "utf-8")
                info["files"] = form.digests(folder)
                if wrong := form.fault(info):
                    raise UserError(f"this model cannot be exported: {wrong}.")
                tables.write_json(info, folder / form.INFO)
                sync_tree(folder)
                if out.exists():  # it is empty; not every system renames onto a folder
                    out.rmdir()
                folder.rename(out)
                sync(out.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}.") from error
