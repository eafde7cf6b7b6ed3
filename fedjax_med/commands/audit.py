"""says what is wrong with a data set, before anyone trains on it."""

from pathlib import Path

from absl import flags as absl_flags

from fedjax_med import audit, audit_report, report, shelves
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
        "datasets",
        experiment.dataset,
        flags.data_dir,
        flags.cache_dir,
        experiment.image_size,
        experiment.images,
    )
    found = audit.find(dataset)
    out = Path(flags.out).expanduser()
    print(audit_report.table(found, more=str(out)), end="\n\n")
    for policy in audit.POLICIES:
        try:
            print(audit.clean(dataset, found, policy)[1])
        except UserError as error:
            print(f"Policy {policy}: not possible: {error}")
    report.write_json(audit_report.to_json(found), out)
    print(f"\nWritten: {out}")
    return 0
