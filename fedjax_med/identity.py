"""Which experiment a checkpoint is of, and what computed its bits."""

import functools
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fedjax_med import __version__, config, overrides
from fedjax_med.errors import UserError

# These may differ between a run and its continuation: they do not touch the numbers.
_FREE = ("name", "map_clients", "images", "validate_every", "views", "calibrate", "checkpoint")


@functools.cache
def code_version() -> str:
    """The version of the package and a short digest of its source."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def identity(experiment: dict[str, Any], data_digest: str, map_clients: str) -> dict[str, Any]:
    """What a checkpoint must agree with (experiment and data), and what its bits depend on.

    Args:
        experiment: `fedjax_med.config.to_dict` of it.
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


def differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What keeps a run from going on with a checkpoint: one line for each field that differs.

    What is `_FREE` may change, and so may the rounds unless the learning rate's schedule depends
    on them.
    """
    free = list(_FREE)
    if given["experiment"]["client"]["schedule"] == "constant":
        free.append("rounds")
    # A field that is newer than the checkpoint had its default; where a file lies is no matter,
    # since what was read from it is in the data's digest.
    completed = overrides.complete(config.from_dict(saved["experiment"]))
    old, new = flat(config.to_dict(completed)), flat(given["experiment"])
    lines = [
        f"{field}: the checkpoint has {old.get(field)!r}, this run {new.get(field)!r}"
        for field in sorted(old.keys() | new.keys())
        if field.partition(".")[0] not in free
        and field != "privacy.budget"  # it ends a run, and does not touch the numbers
        and not field.endswith(".options.path")
        and old.get(field) != new.get(field)
    ]
    noise = [tag["privacy"]["noise_multiplier"] for tag in (saved, given) if tag.get("privacy")]
    if len(noise) == 2 and noise[0] != noise[1]:
        lines.append(f"the noise multiplier: the checkpoint has {noise[0]}, this run {noise[1]}")
    if saved["data"] != given["data"]:
        lines.append("the train images, their labels or their division over the clients")
    return lines


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
