"""How many images of each class there are."""

from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section, table

READS = "audit.json"


def build(run: Run) -> Section | None:
    """Count the images as the audit found them; None without an audit."""
    found = run.audit
    if not found:
        return None
    rows = [
        (one["name"], f"{int(one['train']):,}", f"{int(one['test']):,}") for one in found["classes"]
    ]
    rows.append(("all", f"{int(found['num_train']):,}", f"{int(found['num_test']):,}"))
    caption = "As found, before any are left out; validation images are held out of Train"
    return Section("Images", table(caption, ("class", "Train", "Test"), rows))
