"""Bytes between the hospitals and the server."""

from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section, joined, paragraph, table
from fedjax_med.run.metrics_writer import size_in_words

READS = "metrics.jsonl"
_WAYS = {"bytes_up": "sent by the hospitals", "bytes_down": "sent to the hospitals"}


def build(run: Run) -> Section | None:
    """Sum the bytes of the rounds; None where nothing crossed a network."""
    counted = [one for one in run.records if "bytes_up" in one]
    if not counted:
        return None
    rows = []
    for key, name in _WAYS.items():
        total = sum(int(one[key]) for one in counted)
        mean = size_in_words(total / len(counted))
        rows.append((name, f"{total:,}", size_in_words(total), mean))
    caption = f"All hospitals together, in {len(counted)} rounds"
    text = "Computed from the shapes of the messages, without the network's own headers."
    header = ("direction", "bytes", "in all", "in a round")
    return Section("Communication", joined(table(caption, header, rows), paragraph(text)))
