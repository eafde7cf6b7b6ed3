"""reports the problems of a data set, before training on it.

Besides what is wrong with its files, it asks features of the images for doubtful labels, for
classes that cannot be told apart and, given a table, for the source (docs/own_data.md).
"""

import functools

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_config, define_data
from fedjax_med.data.audit import findings, labels
from fedjax_med.data.audit import report as audit_report
from fedjax_med.data.corrections import report as corrections
from fedjax_med.errors import UserError, expand
from fedjax_med.evaluation import tables
from fedjax_med.experiment import load_data, weighed
from fedjax_med.experiment.audited import audited
from fedjax_med.experiment.config import Experiment
from fedjax_med.run.workdir import check_file_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_config(flags, arguments)
    define_data(flags)
    absl_flags.DEFINE_string(
        "out", "audit.json", "the file that gets every finding in full", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "features",
        "auto",
        weighed.CHOICES,
        "asked for doubts; auto: of the model, else of pixels",
        flag_values=flags,
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Audit the data set, print the table and write the JSON file; return the exit code."""
    experiment: Experiment = flags.config
    out = expand(flags.out)
    check_file_writable(out)
    read = functools.partial(load_data.read, experiment, flags.data_dir, flags.cache_dir)
    dataset, found = audited(experiment, read)
    try:
        asked = weighed.weighed(experiment, dataset, found, flags.cache_dir, flags.features)
        found, refused = found._replace(evidence=asked), ""
    except UserError as error:
        refused = f"Features: not possible: {error}"
    tables.write_json(audit_report.to_json(found), out)
    print(audit_report.table(found, more=str(out)), end="\n\n")
    if refused:
        print(refused, end="\n\n")
    if warned := corrections.warning(found.corrections):
        print(warned, end="\n\n")
    corrected = experiment.policy == "corrected"
    for policy in (experiment.policy,) if corrected else findings.AS_PUBLISHED:
        try:
            print(labels.cleaned(dataset, found, policy)[2])
        except UserError as error:
            print(f"Policy {policy}: not possible: {error}")
    print(f"\nWritten: {out}")
    return 0
