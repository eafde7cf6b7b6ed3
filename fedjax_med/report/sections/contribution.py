"""What each hospital has contributed."""

from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section, joined, paragraph, table

READS = "contribution.json"
_UNITS = {"loss": "Negative loss", "balanced_accuracy": "Balanced accuracy"}
_TEXT = (
    "Shapley value: what a hospital adds when it joins, averaged over the orders of joining. "
    "Leave-one-out: what is lost without it. A low value is no accusation, another seed changes "
    "the values, and they depend on whose validation images there are."
)


def build(run: Run) -> Section | None:
    """Build the table; None where no contribution was computed."""
    found = run.contribution
    if not found:
        return None
    rows = []
    for one in found["hospitals"]:
        error = f" ± {one['standard_error']:.4f}" if one["standard_error"] else ""
        share = "-" if one["share"] is None else f"{100 * one['share']:.1f} %"
        cells = f"{one['leave_one_out']:+.4f}", f"{one['shapley']:+.4f}{error}", share
        rows.append((one["name"], f"{int(one['examples']):,}", *cells))
    value = found["value"]
    gained = f"{value['start']:.4f} at the start, {value['end']:.4f} after round {found['round']}"
    caption = f"{_UNITS[found['metric']]}: {gained}, on {found['n']} validation images"
    header = ("hospital", "examples", "leave-one-out", "Shapley value", "share")
    body = joined(table(caption, header, rows), paragraph(_TEXT))
    return Section("Contribution of each hospital", body)
