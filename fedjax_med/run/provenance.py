"""Which experiment a checkpoint is of, and what computed its bits."""

import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fedjax_med import __version__
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve

# These may differ between a run and its continuation: they do not touch the numbers.
_FREE = ("name", "map_clients", "images", "validate_every", "views", "calibrate", "checkpoint")
# Two runs are compared by these only where both have them.
_ROUNDS, _NOISE = "rounds", "the noise multiplier"


@functools.cache
def code_version() -> str:
    """The version of the package and a short digest of its source."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def identity(experiment: dict[str, Any], data_digest: str, map_clients: str) -> dict[str, Any]:
    """What a checkpoint must agree with (experiment and data), and what its bits depend on.

    Args:
        experiment: `fedjax_med.experiment.config.to_dict` of it.
        data_digest: of the clients' data.
        map_clients: the strategy that was picked.
    """
    computed = {
        "the code": code_version(),
        "map_clients": map_clients,
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count() if map_clients.startswith("sharded") else 1,
        "processes": jax.process_count(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    return {"experiment": experiment, "data": data_digest, "computed by": computed}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    one: dict[str, Any] = {}
    for key, value in values.items():
        one |= flat(value, f"{prefix}.{key}" if prefix else key)
    return one


def _canonical(value: Any) -> Any:
    """`value` of JSON, so that values that are equal (1, 1.0 and True; NaN and NaN) read the same.

    Python's numbers are exact, so that an integer stands for a float only where they are equal.
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
    """Whether `field` may differ between two that are the same run.

    Args:
        field: of the experiment, dotted.
        constant: whether the learning rate's schedule does not depend on the rounds.
    """
    return (
        field.partition(".")[0] in _FREE
        or (field == _ROUNDS and constant)
        or field == "privacy.budget"  # it ends a run, and does not touch the numbers
        # Where a file lies is no matter: what was read from it is in the data's digest.
        or field.endswith(".options.path")
    )


def decisive(tag: dict[str, Any]) -> dict[str, str]:
    """List what makes two runs the same one: equal values have equal texts, others have others.

    `differences` and `run_digest` both follow from it, so that what is another run to the one is
    another run to the other.

    Args:
        tag: an `identity` ("experiment", of a completed one, and "data" suffice), with what
            `fedjax_med.experiment.privacy_plan.tag` says of privacy, where something is promised.

    Returns:
        The fields of the experiment that are not free to change, by their dotted names; the noise
        multiplier, which may have been solved from what is free to change; the data's digest.
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


def run_digest(tag: dict[str, Any], weights: str = "") -> str:
    """Compute SHA-256 of what makes this run the one that it is: its noise follows from it.

    All fields are in it, those with their default, too: a later version may have other defaults,
    and is another run then. It may also have one field more, and another digest for the same run;
    so a checkpoint keeps the one that its run began with (`fedjax_med.run.noise_key.of_run`).

    Args:
        tag: as for `decisive`.
        weights: the digest of the first weights, where they are from a file, which may change
            under its name.
    """
    return hashlib.sha256(_text(decisive(tag) | {"the weights": weights}).encode()).hexdigest()


def differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What keeps a run from going on with a checkpoint: a line for each of `decisive` that differs.

    What is `_FREE` may change, and so may the rounds unless the learning rate's schedule depends
    on them.
    """
    # A field that is newer than the checkpoint had its default.
    completed = config.to_dict(resolve.complete(config.from_dict(saved["experiment"])))
    old, new = decisive(saved | {"experiment": completed}), decisive(given)
    had, has = flat(completed), flat(given["experiment"])
    lines = {
        _NOISE: f"{_NOISE}: the checkpoint has {old.get(_NOISE)}, this run {new.get(_NOISE)}",
        "the data": "the train images, their labels or their division over the clients",
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
    """Refuse to go on in the `workdir` of another experiment.

    Args:
        workdir: for the message.
        saved: the `identity` of what is there ("experiment" and "data" suffice).
        given: that of this run.

    Raises:
        UserError: The message names the fields that differ.
    """
    differing = differences(saved, given)
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{workdir} holds another experiment: choose another --workdir, or give the command "
            f"that this one was started with. {'; '.join(differing[:3])}{more}."
        )
