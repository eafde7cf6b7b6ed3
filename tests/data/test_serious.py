"""The one line about the data repeats what nobody should train over unread."""

import numpy as np
import pytest

from fedjax_med.data.audit import findings, serious
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Dataset, Split


def split(labels: list[int], brightest: int = 255) -> Split:
    count = len(labels)
    return Split(
        np.full((count, 2, 2, 3), brightest, np.uint8),
        np.array(labels, np.int32),
        np.array([f"{'abcde'[label]}/{i}.png" for i, label in enumerate(labels)]),
        np.array([str(i) for i in range(count)]),
        np.random.default_rng(0).integers(0, 256, (count, 32), np.uint8),
        np.full(count, -1, np.int32),
    )


def sentence(train, parts, held=None, ignored=(), names=()):
    audit = findings.find(Dataset("x", tuple("abcde"), train, split([]), (), ignored))
    validation = None if held is None else ClientData(train, held)
    return serious.sentence(audit, ClientData(train, parts), validation, names)


EVERY = np.arange(5)


def test_nothing_is_said_of_data_without_a_serious_finding():
    assert sentence(split([0, 1, 2, 3, 4] * 2), (EVERY, EVERY + 5), (EVERY, EVERY)) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": split([0, 1, 2, 3, 4], 16)}, "5 nearly black images, such as a/0.png"),
        ({"ignored": ((".dcm", 1200), ("Val/", 3))}, "left aside: 1,200 .dcm, 3 Val/"),
        ({"ignored": ((".\x1b[2J", 1),)}, r"left aside: 1 .\x1b[2J"),
        ({"parts": (EVERY, EVERY[:4])}, "client 1 has none of e"),
        (
            {"parts": (EVERY[:1], EVERY), "names": ("Graz", "Lyon")},
            "client 0 (Graz) has none of b, c, d and 1 more",
        ),
        ({"parts": (EVERY[:4],) * 7}, "client 2 has none of e, and 4 more lack classes"),
        ({"held": (EVERY, EVERY[:0]), "parts": (EVERY, EVERY)}, "no validation images: client 1"),
    ],
)
def test_each_serious_finding_is_said(changes, said):
    found = sentence(**({"train": split([0, 1, 2, 3, 4]), "parts": (EVERY,)} | changes))
    assert found.startswith(" Attention: ")
    assert said in found
    assert found.isprintable()
    of_audit = {"train", "ignored"} & set(changes)  # what `audit` finds: it knows no clients
    assert ("`fedjax-med audit` tells more" in found) == bool(of_audit)
