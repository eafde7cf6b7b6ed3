"""reports the problems of a data set, before training on it."""

from pathlib import Path

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_config, define_data
from fedjax_med.data.audit import findings
from fedjax_med.data.audit import report as audit_report
from fedjax_med.errors import UserError
from fedjax_med.evaluation import tables
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_config(flags, arguments)
    define_data(flags)
    absl_flags.DEFINE_string(
        "out", "audit.json", "the file that gets every finding in full", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Audit the data set, print the table and write the JSON file; return the exit code."""
    experiment: Experiment = flags.config
    dataset = components.build(
        "datasets",
        experiment.dataset,
        flags.data_dir,
        flags.cache_dir,
        experiment.image_size,
        experiment.image_storage,
    )
    found = findings.find(dataset)
    out = Path(flags.out).expanduser()
    print(audit_report.table(found, more=str(out)), end="\n\n")
    for policy in findings.POLICIES:
        try:
            print(findings.clean(dataset, found, policy)[1])
        except UserError as error:
            print(f"Policy {policy}: not possible: {error}")
    tables.write_json(audit_report.to_json(found), out)
    print(f"\nWritten: {out}")
    return 0
