"""Refuses fields that name tables, or their columns, without what belongs to them."""

import dataclasses

from fedjax_med.data.corrections.table import FLAG, needed
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Experiment


def check(experiment: Experiment) -> None:
    """Refuse a table without its columns or its policy, and these without a table.

    Raises:
        UserError: The message names the field.
    """
    _check_corrections(experiment)
    _check_metadata(experiment)
    _check_groups(experiment)


def _check_corrections(experiment: Experiment) -> None:
    """Refuse the policy ``corrected`` without a table, and a table without this policy."""
    table, policy = experiment.corrections, experiment.policy
    if policy == "corrected" and not table:
        raise UserError(f"--config.policy=corrected needs a table of corrections: give {needed()}.")
    if table and policy != "corrected":
        raise UserError(
            f"{FLAG}={table} is for --config.policy=corrected, and the policy is {policy!r}: give "
            "both or neither."
        )


def _check_metadata(experiment: Experiment) -> None:
    """Refuse columns without a table, and a table without columns."""
    given = dataclasses.asdict(experiment.metadata)
    path, image = given.pop("path"), given.pop("image")
    if given.pop("source_prefix") and not given["source"]:
        raise UserError("--config.metadata.source_prefix needs --config.metadata.source=HEADING.")
    columns = [name for name in given if given[name]]
    if columns and not path:
        raise UserError(
            f"--config.metadata.{columns[0]} names a column of a table: give the table, "
            "--config.metadata.path=FILE, too."
        )
    if path and not (columns and image):
        raise UserError(
            f"--config.metadata.path={path} needs --config.metadata.image and a column: set "
            f"{' or '.join(f'--config.metadata.{name}' for name in given)} to its heading."
        )


def _check_groups(experiment: Experiment) -> None:
    """Refuse a table of groups without the heading of the groups, and a heading without a table."""
    groups, column = experiment.groups, experiment.dataset.options.get("group")
    if groups.path and column:
        raise UserError(
            f"--config.groups.path={groups.path} and --config.dataset.options.group={column} both "
            "say which images belong together: give one of them."
        )
    if bool(groups.path) != bool(groups.column):
        given, missing = ("path", "column") if groups.path else ("column", "path")
        what = "the heading of the groups in it" if groups.path else "the table that has it"
        raise UserError(
            f"--config.groups.{given}={getattr(groups, given)} needs --config.groups.{missing}: "
            f"{what}, such as {'lesion' if groups.path else 'images.csv'}."
        )
