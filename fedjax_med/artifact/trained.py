"""The global model of a run, from its checkpoint alone: the training data need not be there."""

import contextlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_med.artifact import tensors
from fedjax_med.artifact.bundle import Shapes
from fedjax_med.core.model import Tensors
from fedjax_med.core.trees import take
from fedjax_med.data import feature_cache
from fedjax_med.errors import UserError
from fedjax_med.experiment import build, config, options
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.checkpoint_store import Store
from fedjax_med.run.load import SavedRun
from fedjax_med.run.provenance import refuse_other
from fedjax_med.run.resume import no_checkpoint


class Trained(NamedTuple):
    """The model of a checkpoint.

    Attributes:
        tensors: of the trained parameters and of the frozen part's, by name.
        round: whose model it is.
        done: the latest round that has a checkpoint.
        privacy: what the rounds done have spent, as in a checkpoint; {} if nothing is promised.
        code: the version that computed the model.
    """

    tensors: Tensors
    round: int
    done: int
    privacy: dict[str, Any]
    code: str


def has_own_models(experiment: config.Experiment) -> tuple[bool, int]:
    """Tell whether clients have models of their own, and how many clusters have (0: none).

    Args:
        experiment: as trained.
    """
    algorithm = build.build_algorithm(experiment, options.trainer())
    return algorithm.personal_params is not None, algorithm.num_clusters


def read(run: SavedRun, shapes: Shapes, which: str, cluster: int) -> Trained:
    """Read the model of the checkpoint that `which` names.

    Args:
        run: its saved description.
        shapes: of its model.
        which: ``best`` (by validation) or ``last``.
        cluster: of a clustered run the number of the model; -1: none was given.

    Raises:
        UserError: There is no sound checkpoint, it is of another experiment, or there are several
            models and no `cluster` was given; or the frozen part's weights cannot be read.
    """
    raw, number, done, saved = _state(run, which)
    found = tensors.named(raw["server"]["params"], tensors.MODEL)
    clusters = has_own_models(run.resolved.trained)[1]
    _check_cluster(clusters, cluster)
    if clusters:
        found = take(found, cluster)
    wanted = tensors.named(shapes.params, tensors.MODEL)
    if wrong := tensors.differing(found, wanted):
        raise UserError(
            f"the checkpoint of round {number} in {run.workdir} is of another model than its "
            f"experiment.json ({wrong}): use the version of fedjax_med that trained it."
        )
    found |= _frozen(run.resolved.trained, shapes)
    arrays = {name: np.ascontiguousarray(value) for name, value in found.items()}
    code = str(saved.get("computed by", {}).get("the code", ""))
    return Trained(arrays, number, done, saved.get("privacy", {}), code)


def _state(run: SavedRun, which: str) -> tuple[dict[str, Any], int, int, dict[str, Any]]:
    """Return the first sound state, its round, the latest round and the latest identity."""
    experiment = run.resolved.asked
    with contextlib.closing(
        Checkpoints(run.workdir, experiment.checkpoint, read_only=True)
    ) as checkpoints:
        done = max(checkpoints.rounds(), default=0)
        # A budget may have ended the run before its last round.
        last = done if experiment.privacy.budget else experiment.rounds
        best = checkpoints.best_first(last)
        order = best if which == "best" else checkpoints.latest_first()
        saved = checkpoints.last_identity()
    with contextlib.closing(Store(run.workdir.absolute() / "checkpoints")) as store:
        for number in order:
            try:
                identity, raw = store.read_identity(number), store.read_raw(number)
            except Exception as error:  # whatever Orbax raises
                reason = " ".join(str(error).split())[:200]
                print(f"The checkpoint of round {number} is damaged ({reason}).", file=sys.stderr)
                continue
            given = {"experiment": config.to_dict(experiment), "data": run.saved["data"]}
            privacy = {name: identity[name] for name in ("privacy",) if name in identity}
            streams = {"streams": identity.get("streams", 1)}
            refuse_other(run.workdir, identity, given | privacy | streams)
            return raw, number, done, saved
    raise UserError(no_checkpoint(run.workdir, done))


def _check_cluster(clusters: int, cluster: int) -> None:
    if clusters and not 0 <= cluster < clusters:
        raise UserError(
            f"the run has {clusters} models, one for each cluster of clients, and a bundle holds "
            f"one: give --cluster=NUMBER from 0 to {clusters - 1}, got {cluster}."
        )
    if not clusters and cluster >= 0:
        raise UserError(f"--cluster={cluster}: the run has one global model; leave it out.")


def _frozen(experiment: config.Experiment, shapes: Shapes) -> dict[str, Any]:
    """Read the weights of the frozen part from their source, by name; {} if nothing is frozen."""
    if shapes.below is None:
        return {}
    side = experiment.image_size
    part = feature_cache.part(shapes.below, experiment.pretrained, (side, side, 3))
    return tensors.named(jax.tree.map(np.asarray, part.params), tensors.FROZEN)
