"""The findings that nobody should train over without having read them, in one sentence."""

from collections.abc import Sequence

import numpy as np

from fedjax_med.data import client_data
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.client_data import ClientData
from fedjax_med.errors import printable

_NAMED = 3  # kinds of files, classes and clients that are named; the rest is counted


def sentence(
    audit: Audit,
    train: ClientData,
    validation: ClientData | None,
    names: tuple[str, ...],
    in_test: Sequence[str] = (),
) -> str:
    """Name dark images, files left aside, clients without a class or validation images, and groups.

    Args:
        audit: of the data set.
        train: the clients' training examples.
        validation: their validation examples; None if none are wanted.
        names: of the clients; () if they have none.
        in_test: the training images whose group is also tested on.

    Returns:
        The sentence, with a space before it; "" if nothing was found.
    """
    found = []
    if audit.dark:
        found.append(f"{len(audit.dark):,} nearly black images, such as {printable(audit.dark[0])}")
    if audit.ignored:
        kinds = [f"{count:,} {printable(kind)}" for kind, count in audit.ignored]
        found.append(f"left aside: {_some(kinds)}")
    found += _lacking(client_data.class_counts(train, len(audit.class_names)), audit, names)
    if validation is not None and (empty := np.flatnonzero(validation.sizes == 0)).size:
        clients = _some([_client(int(client), names) for client in empty])
        found.append(f"no validation images: {clients}")
    shared = _groups(audit, in_test)
    found += shared
    # The audit knows no clients but the hospitals whose groups it counts.
    more = " (`fedjax-med audit` tells more)" if audit.dark or audit.ignored or shared else ""
    return f" Attention: {'; '.join(found)}{more}." if found else ""


def _groups(audit: Audit, in_test: Sequence[str]) -> list[str]:
    """Say which groups of images are in Train and Test, or in two hospitals."""
    if audit.groups is None:
        return []
    column, found = printable(audit.groups.column), []
    if in_test:
        found.append(
            f"{len(in_test):,} training images of a {column} that is also in Test, such as "
            f"{printable(in_test[0])}"
        )
    if count := len(audit.groups.hospitals):
        found.append(f"{count:,} groups by {column} with images in more than one hospital")
    return found


def _lacking(counts: np.ndarray, audit: Audit, names: tuple[str, ...]) -> list[str]:
    """Name the clients that have none of a class, and the classes that they lack."""
    lacking = np.flatnonzero((counts == 0).any(axis=1))
    if not lacking.size:
        return []
    each = []
    for client in lacking[:_NAMED].tolist():
        absent = [audit.class_names[label] for label in np.flatnonzero(counts[client] == 0)]
        each.append(f"{_client(client, names)} has none of {_some(list(map(printable, absent)))}")
    more = lacking.size - len(each)
    return [", ".join(each) + (f", and {more:,} more lack classes" if more else "")]


def _client(number: int, names: tuple[str, ...]) -> str:
    return f"client {number} ({printable(names[number])})" if names else f"client {number}"


def _some(texts: list[str]) -> str:
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
