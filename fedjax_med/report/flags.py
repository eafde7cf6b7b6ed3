"""An experiment as the flags of the command line that make it again."""

import shlex
from typing import Any

from fedjax_med.experiment import config, resolve

_SPEC = {"name", "options"}


def flags(experiment: config.Experiment) -> list[str]:
    """List the flags by which `experiment` differs from one without any.

    Args:
        experiment: as a workdir has it, with the options of its components.

    Returns:
        ``--config.FIELD=VALUE`` each, quoted for a shell.
    """
    before = config.to_dict(resolve.complete(config.Experiment()))
    return [shlex.quote(flag) for flag in _changed("--config", config.to_dict(experiment), before)]


def _changed(path: str, value: Any, before: Any) -> list[str]:
    """List the flags for what differs between two values of the field at `path`."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = ",".join(one["name"] for one in value)
        return [
            f"{path}={names}",
            *(
                flag
                for number, one in enumerate(value)
                for flag in _changed(f"{path}[{number}].options", one["options"], {})
            ),
        ]
    if isinstance(value, dict):
        known = before if isinstance(before, dict) else {}
        if value.keys() == _SPEC and value["name"] != known.get("name"):
            known = {}  # the options of another component
        return [
            flag
            for name, one in value.items()
            for flag in _changed(f"{path}.{name}", one, known.get(name))
        ]
    if value is None or (value == before and type(value) is type(before)):
        return []
    return [f"{path}={tuple(value) if isinstance(value, list) else value}"]
