"""says what is wrong with a data set, before anyone trains on it."""

import contextlib
import json
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from fedjax_med import audit, shelves
from fedjax_med.config import Experiment
from fedjax_med.errors import UserError
from fedjax_med.flags import define_config, define_data


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """The flags of ``fedjax-med audit``."""
    define_config(flags, arguments)
    define_data(flags)
    absl_flags.DEFINE_string(
        "out", "audit.json", "the file that gets every finding in full", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Audit the data set, print the table, write the JSON file."""
    experiment: Experiment = flags.config
    dataset = shelves.build(
        "datasets", experiment.dataset, flags.data_dir, flags.cache_dir, experiment.image_size
    )
    found = audit.find(dataset)
    out = Path(flags.out).expanduser()
    print(audit.table(found, more=str(out)), end="\n\n")
    for policy in audit.POLICIES:
        try:
            print(audit.clean(dataset, found, policy)[1])
        except UserError as error:
            print(f"Policy {policy}: not possible: {error}")
    _write_json(out, audit.to_json(found))
    print(f"\nWritten: {out}")
    return 0


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write all or nothing: a reader never sees half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            f"--out={path} cannot be written: {error.strerror}. Give another file."
        ) from error
