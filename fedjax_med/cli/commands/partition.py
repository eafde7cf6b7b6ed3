"""writes one folder of images per client, as hospitals would hold them.

The images of --data_dir are cleaned as --config.policy says, divided as --config.partition says
and copied, byte by byte, to OUT/client_0/CLASS/, OUT/client_1/CLASS/, ... and OUT/test/CLASS/.
OUT/manifest.json lists every file. Training from OUT gives the same numbers as training from
--data_dir with the same config.
"""

from typing import Any

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_config, define_data
from fedjax_med.data.corrections import report as corrections
from fedjax_med.data.images import folders, manifest
from fedjax_med.data.images.export import check_folders, table, write
from fedjax_med.errors import UserError
from fedjax_med.experiment import load_data
from fedjax_med.run.workdir import check_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_data(flags)
    absl_flags.DEFINE_string("out", "", "the folder to write: new or empty", flag_values=flags)
    define_config(flags, arguments)


def run(flags: absl_flags.FlagValues) -> None:
    """Read, clean and divide the data set, and write the client folders.

    Raises:
        UserError: A flag is missing or wrong, the data is already divided, or OUT is not writable.
    """
    out = check_folders(flags.data_dir, flags.out)
    check_writable(out.parent)  # where it is written before it takes its name
    experiment = load_data.count_clients(flags.config, flags.data_dir)
    division = load_data.divide(experiment, flags.data_dir, flags.cache_dir)
    dataset, parts = division.dataset, division.parts
    if (dataset.train.client >= 0).any():
        by_table = experiment.dataset.options.get("site")
        what = "divided by the sites of its table" if by_table else "divided into client folders"
        raise UserError(f"{flags.data_dir} is already {what}.")
    listing: dict[str, Any] = {
        "format": manifest.FORMAT,
        "dataset": dataset.name,
        "policy": experiment.policy,
        "partition": {
            "name": experiment.partition.name,
            "options": dict(experiment.partition.options),
        },
        "num_clients": experiment.num_clients,
        "client_names": list(division.names),
        "seed": experiment.seed,
        "class_names": list(dataset.class_names),
        **_corrected(division),
    }
    if dataset.groups is not None:
        listing["groups"] = {name: getattr(dataset.groups, name) for name in ("column", "sha256")}
    source = load_data.listed(experiment.dataset, flags.data_dir)
    write(out, listing, source or folders.scan(flags.data_dir))
    print(division.summary)
    if warned := corrections.warning(division.findings.corrections):
        print(warned)
    print("\n".join(table(dataset, parts)))
    print(f"Wrote {len(listing['files']):,} images and {manifest.NAME} to {out}.")


def _corrected(division: load_data.Division) -> dict[str, Any]:
    """List the files, each in the folder of its right class, and the table that says it."""
    changes = division.findings.corrections
    if changes is None or not changes.applied:
        return {"files": manifest.entries(division.dataset, division.parts)}
    filed = {(one.split, one.name): one.filed for one in changes.changed}
    return {
        "corrections": {"table": changes.table, "sha256": changes.sha256},
        "files": manifest.entries(division.dataset, division.parts, filed),
    }
