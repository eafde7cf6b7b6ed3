"""Identity of a run: its experiment and data, and the software and hardware that computed it."""

import dataclasses
import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fedjax_med import __version__
from fedjax_med.core.client_map import ClientMap
from fedjax_med.core.random import STREAMS
from fedjax_med.errors import UserError
from fedjax_med.execution.settings import settings
from fedjax_med.experiment import config, resolve
from fedjax_med.experiment.components import foreign_sources, from_elsewhere

# These may differ between a run and its continuation: they do not affect the numbers.
_FREE = (
    "name",
    "map_clients",
    "image_storage",
    "corrections",  # the content of the table is in the data's digest
    "metadata",  # for the audit
    "validate_every",
    "tta_views",
    "calibrate",
    "operating",
    "checkpoint",
    "groups",  # which images are together is in the data's digest
)
# Two runs are compared by these only if both have them.
_ROUNDS, _NOISE = "rounds", "the noise multiplier"


@functools.cache
def code_version() -> str:
    """Return the version of the package with a short digest of its source."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def identity(experiment: dict[str, Any], data_digest: str, client_map: ClientMap) -> dict[str, Any]:
    """Build the identity: experiment and data, which must match, and what the bits depend on.

    Args:
        experiment: from `fedjax_med.experiment.config.to_dict`.
        data_digest: of the clients' data.
        client_map: the one in use.
    """
    computed = {
        "the code": code_version(),
        "map_clients": client_map.name,
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count() if client_map.sharded else 1,
        "processes": jax.process_count(),
        **foreign_sources(config.from_dict(experiment)),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        **settings(),
    }
    return {
        "experiment": experiment,
        "data": data_digest,
        "streams": STREAMS,
        "computed by": computed,
    }


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries into one with dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    one: dict[str, Any] = {}
    for key, value in values.items():
        one |= flat(value, f"{prefix}.{key}" if prefix else key)
    return one


def _canonical(value: Any) -> Any:
    """Convert JSON so that equal values (1, 1.0 and True; NaN and NaN) have equal texts.

    Python's integers are exact, so an integer replaces a float only where they are equal.
    """
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def _text(value: Any) -> str:
    return json.dumps(_canonical(value), sort_keys=True)


def _is_free(field: str, constant: bool) -> bool:
    """Return whether `field` may differ within the same run.

    Args:
        field: of the experiment, dotted.
        constant: whether the learning rate is constant, independent of the number of rounds.
    """
    return (
        field.partition(".")[0] in _FREE
        or (field == _ROUNDS and constant)
        or field == "privacy.budget"  # it ends a run, and does not affect the numbers
        # A file's location does not matter: its content is in the data's digest.
        or field.endswith(".options.path")
    )


def decisive(tag: dict[str, Any]) -> dict[str, str]:
    """List the values that identify a run, as texts that are equal only for equal values.

    `differences` and `run_digest` are both derived from it, so they agree on which runs are the
    same.

    Args:
        tag: an `identity` ("experiment", of a completed one, and "data" suffice), with the privacy
            entry of `fedjax_med.privacy.plan.to_json` if there is a guarantee.

    Returns:
        The fields of the experiment that may not change, by their dotted names; the noise
        multiplier, which may have been solved from fields that may change; the data's digest.
    """
    values = tag["experiment"]
    constant = values["client"]["schedule"] == "constant"
    fields = {
        field: _text(value)
        for field, value in flat(values).items()
        if not _is_free(field, constant)
    }
    if tag.get("privacy"):
        fields[_NOISE] = _text(tag["privacy"]["noise_multiplier"])
    return fields | {"the data": tag["data"]}


def reported_digest(experiment: config.Experiment) -> str:
    """Compute a short digest of the fields that decide an evaluation, and that no checkpoint fixes.

    They may change within a run, so that experiment.json alone has them.
    """
    fields: dict[str, Any] = {
        "name": experiment.name,
        "tta_views": experiment.tta_views,
        "calibrate": experiment.calibrate,
        "checkpoint.tested": experiment.checkpoint.tested,
    }
    if experiment.operating != config.Operating():  # so digests of earlier versions stay
        fields["operating"] = dataclasses.asdict(experiment.operating)
    return hashlib.sha256(_text(fields).encode()).hexdigest()[:16]


def run_digest(tag: dict[str, Any], weights: str = "") -> str:
    """Compute the SHA-256 that identifies this run; its noise is derived from it.

    All fields are included, also those at their defaults: with a later version's other defaults it
    is another run, and so it is with other random streams. A later version may also add a field and
    so change the digest of the same run; so a checkpoint keeps the digest its run began with
    (`fedjax_med.run.noise_key.of_run`).

    Args:
        tag: as for `decisive`.
        weights: the digest of the first weights if they are from a file, whose content may change.
    """
    of = decisive(tag) | {"the weights": weights, "the streams": STREAMS}
    return hashlib.sha256(_text(of).encode()).hexdigest()


def differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """List what prevents resuming from a checkpoint: a line for each differing `decisive` value.

    The fields in `_FREE` may change, and so may the rounds unless the learning rate's schedule
    depends on them.
    """
    # A field newer than the checkpoint had its default value. What this run does not name is not
    # imported for a message: the workdir may be somebody else's.
    before = config.from_dict(saved["experiment"])
    known = from_elsewhere(config.from_dict(given["experiment"]))
    completed = config.to_dict(
        resolve.complete(before) if from_elsewhere(before) <= known else before
    )
    old, new = decisive(saved | {"experiment": completed}), decisive(given)
    had, has = flat(completed), flat(given["experiment"])
    lines = {
        _NOISE: f"{_NOISE}: the checkpoint has {old.get(_NOISE)}, this run {new.get(_NOISE)}",
        "the data": "the train images, their labels or their division over the clients differ",
    }
    fields = old.keys() | new.keys()
    fields -= {field for field in (_ROUNDS, _NOISE) if field not in old.keys() & new.keys()}
    return [
        lines.get(field)
        or f"{field}: the checkpoint has {had.get(field)!r}, this run {has.get(field)!r}"
        for field in sorted(fields, key=lambda field: (field in lines, field))
        if old.get(field) != new.get(field)
    ]


def refuse_other(workdir: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to continue in the `workdir` of another experiment.

    Args:
        workdir: for the message.
        saved: the `identity` found there ("experiment" and "data" suffice).
        given: the `identity` of this run.

    Raises:
        UserError: The message names the fields that differ, or says that the random streams do.
    """
    differing = differences(saved, given)
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{workdir} holds another experiment ({'; '.join(differing[:3])}{more}): choose "
            "another --workdir, or give the command that the run there was started with."
        )
    # Only the identity of a checkpoint has what it was computed by.
    other = "computed by" in saved and saved.get("streams", 1) != given.get("streams", 1)
    if other and _draws(config.from_dict(given["experiment"])):
        raise UserError(
            f"the checkpoints in {workdir} are of a version with other random streams for cohorts, "
            "faults, attacks, clusters and losses, which this run draws from: go on with the "
            "version of fedjax_med that began it, or train again in another --workdir."
        )


def _draws(experiment: config.Experiment) -> bool:
    """Return whether a run draws from one of the named streams, and not by epochs alone."""
    given = experiment.participation
    return experiment.setting == "federated" and (
        experiment.cohort.name not in ("everyone", "fixed")
        or given.participation_rate < 1
        or given.straggler_rate > 0
        or given.corruption_rate > 0
        or bool(experiment.attacks)
        or experiment.algorithm.name in ("fed_rep", "ifca")
        or experiment.aggregator.name in ("agnostic", "q_fair")
        or any(":" in spec.name for spec in (experiment.algorithm, experiment.aggregator))
    )
