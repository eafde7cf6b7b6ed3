"""Faults of a data set, found before training, and policies to clean it.

Two images are *copies* when their files are byte for byte the same, and *near-duplicates* when they
look the same but are not copies: a photograph that was saved, scaled or colour-corrected once more.
Copies are proof, so `clean` settles labels by them; near-duplicates are strong evidence, so they
only keep images of Test out of Train and keep duplicates together when the data are split.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data import groups
from fedjax_med.data.audit import group_findings
from fedjax_med.data.audit.diagnoses import Diagnoses
from fedjax_med.data.audit.duplicates import Int32, members, number
from fedjax_med.data.audit.evidence import Evidence
from fedjax_med.data.audit.group_findings import GroupFindings
from fedjax_med.data.audit.lesions import Lesions
from fedjax_med.data.audit.sources import Sources
from fedjax_med.data.corrections.correct import Changes
from fedjax_med.data.dataset import Dataset, Split, Unreadable
from fedjax_med.data.images.lazy import DiskImages
from fedjax_med.errors import UserError, check_name

AS_PUBLISHED = ("keep", "drop", "rarest")  # the policies that leave every label as it is
POLICIES = (*AS_PUBLISHED, "corrected")

# 12-bit levels shown by a white of 16 bits do not exceed it (4095 of 65535 is 16 of 255).
DARK = 16

FINDINGS = (  # the fields of `Audit` that hold findings
    "train_contradictions",
    "train_copies",
    "leaks_other_label",
    "leaks_same_label",
    "test_contradictions",
    "test_copies",
    "near_duplicates",
)


class SameImage(NamedTuple):
    """One image that the data set holds more than once."""

    classes: tuple[str, ...]  # sorted: the labels it has
    train: tuple[str, ...]  # the names of its files in Train
    test: tuple[str, ...]  # and in Test


class Audit(NamedTuple):
    """The result of `find`; an image may be in more than one finding."""

    dataset: str
    class_names: tuple[str, ...]
    train_sizes: tuple[int, ...]  # [K]
    test_sizes: tuple[int, ...]  # [K]
    train_contradictions: tuple[SameImage, ...]  # copies in Train under two or more labels
    train_copies: tuple[SameImage, ...]  # copies in Train under one label
    leaks_other_label: tuple[SameImage, ...]  # one per Test file in Train under another label
    leaks_same_label: tuple[SameImage, ...]  # one per Test file in Train under its own label
    test_contradictions: tuple[SameImage, ...]
    test_copies: tuple[SameImage, ...]
    near_duplicates: tuple[SameImage, ...]  # in and across both
    unreadable: tuple[Unreadable, ...]
    ignored: tuple[tuple[str, int], ...]  # kinds of ignored files and their counts
    dark: tuple[str, ...]  # names of images without a pixel above `DARK`
    levels: tuple[tuple[str, int], ...]  # scales of grey levels above 8 bits, and their counts
    # Joint numbers: two examples of Train or Test have the same number exactly when they are the
    # same image. `near` counts near-duplicates as the same, `copy` does not.
    train_copy: Int32  # [N]
    test_copy: Int32  # [M]
    train_near: Int32  # [N]
    test_near: Int32  # [M]
    # What a table changed in these labels, or would change in them; None without a table.
    corrections: Changes | None = None
    # The classes beside the diagnoses of a table; None without one.
    diagnoses: Diagnoses | None = None
    groups: GroupFindings | None = None  # None: the images have no groups
    lesions: Lesions | None = None  # by a table; None without one
    sources: Sources | None = None  # likewise
    evidence: Evidence | None = None  # of features; None: nobody looked at them


def find(dataset: Dataset) -> Audit:
    """Look for copies, near-duplicates, contradictions, leaks and unreadable files."""
    train, test = dataset.train, dataset.test
    num_train, num_classes = train.num_examples, len(dataset.class_names)
    copy, near = number(
        np.concatenate([train.sha256, test.sha256]),
        np.concatenate([train.image_hash, test.image_hash]),
        (train.image, test.image),
    )
    rows = _Rows(
        label=[dataset.class_names[label] for label in (*train.label, *test.label)],
        name=names(train, dataset.clients) + names(test, dataset.clients),
        num_train=num_train,
    )
    return Audit(
        dataset=dataset.name,
        class_names=dataset.class_names,
        train_sizes=tuple(np.bincount(train.label, minlength=num_classes).tolist()),
        test_sizes=tuple(np.bincount(test.label, minlength=num_classes).tolist()),
        **_findings(rows, copy),
        near_duplicates=tuple(
            _same(rows, same) for same in members(near) if np.ptp(copy[same]) > 0
        ),
        unreadable=dataset.unreadable,
        ignored=dataset.ignored,
        dark=tuple(
            name
            for name, brightest in zip(rows.name, _brightest(train, test), strict=True)
            if brightest <= DARK
        ),
        levels=dataset.levels,
        train_copy=copy[:num_train],
        test_copy=copy[num_train:],
        train_near=near[:num_train],
        test_near=near[num_train:],
        corrections=None,
        diagnoses=None,
        groups=_groups(dataset, near, rows.name),
        lesions=None,
        sources=None,
        evidence=None,
    )


def _groups(dataset: Dataset, near: Int32, names: list[str]) -> GroupFindings | None:
    """Look at the groups of the images, where copies and near-duplicates belong to one group."""
    united = groups.unite(
        dataset, near[: dataset.train.num_examples], near[dataset.train.num_examples :]
    )
    of = [split.group for split in (united.train, united.test) if split.group is not None]
    return group_findings.find(dataset, np.concatenate(of), names) if of else None


def _brightest(*splits: Split) -> Iterator[int]:
    """Yield the greatest value in each image, without reading images that are on disk."""
    for image in (split.image for split in splits):
        if isinstance(image, DiskImages):
            yield from image.brightest.tolist()
        else:
            yield from (int(image[i].max()) for i in range(len(image)))


class _Rows(NamedTuple):
    """Labels and names of the examples, Train before Test, for the findings."""

    label: list[str]
    name: list[str]
    num_train: int


def names(split: Split, clients: tuple[str, ...]) -> list[str]:
    """Return the names of the images, with their hospitals' folders if there are any."""
    return [
        f"{clients[client] if clients else f'client_{client}'}/{name}" if client >= 0 else str(name)
        for client, name in zip(split.client, split.name, strict=True)
    ]


def _same(rows: _Rows, images: Iterable[int]) -> SameImage:
    return SameImage(
        classes=tuple(sorted({rows.label[i] for i in images})),
        train=tuple(rows.name[i] for i in images if i < rows.num_train),
        test=tuple(rows.name[i] for i in images if i >= rows.num_train),
    )


def _findings(rows: _Rows, copy: Int32) -> dict[str, tuple[SameImage, ...]]:
    found: dict[str, list[SameImage]] = {key: [] for key in FINDINGS[:-1]}
    for copies in members(copy):
        train = [int(i) for i in copies if i < rows.num_train]
        test = [int(i) for i in copies if i >= rows.num_train]
        for split, part in (("train", train), ("test", test)):
            by_label: dict[str, list[int]] = {}
            for i in part:
                by_label.setdefault(rows.label[i], []).append(i)
            if len(by_label) > 1:
                found[f"{split}_contradictions"].append(_same(rows, part))
            found[f"{split}_copies"] += [
                _same(rows, twice) for twice in by_label.values() if len(twice) > 1
            ]
        for i in test if train else []:
            image = _same(rows, [*train, i])
            found["leaks_other_label" if len(image.classes) > 1 else "leaks_same_label"].append(
                image
            )
    return {key: tuple(images) for key, images in found.items()}


def clean(dataset: Dataset, audit: Audit, policy: str) -> tuple[Dataset, str]:
    """Apply a policy to Train; Test is not altered.

    ``keep`` changes nothing. ``drop`` and ``rarest`` remove from Train images of Test (copies and
    near-duplicates), unreadable files, and all but the first copy of an image. Of an image under
    several labels ``drop`` keeps no copy in Train, and ``rarest`` keeps one, with the label whose
    class has the fewest images in Train as published. ``corrected`` is ``rarest`` for a data set
    whose labels a table has corrected (`fedjax_med.data.corrections.correct`).

    Args:
        dataset: the data set.
        audit: the result of `find` for it.
        policy: ``keep``, ``drop``, ``rarest`` or ``corrected``.

    Returns:
        The cleaned data set, and one line that reports the changes.

    Raises:
        UserError: The policy is unknown; a Test file (under ``keep``, any file) is unreadable; a
            class has no training image left.
    """
    check_name(policy, POLICIES, "the policies")
    _refuse_unreadable(dataset, policy)
    size, test_size = dataset.train.num_examples, dataset.test.num_examples
    if policy == "keep":
        return (
            dataset,
            f"Policy keep: {size:,} train images and {test_size:,} test images as found.",
        )
    keep, leave = _leavers(dataset.train.label, audit, policy)
    left_out = [f"{count:,} {what}" for what, count in leave.items() if count]
    if dataset.unreadable:
        left_out.append(f"{len(dataset.unreadable):,} unreadable")
    train = dataset.train.take(keep)
    for label, name in enumerate(dataset.class_names):
        if not (train.label == label).any():
            broken = [f for f in dataset.unreadable if f.name.startswith(f"{name}/")]
            why = f" ({len(broken):,} unreadable: {broken[0].reason})" if broken else ""
            raise UserError(
                f"policy {policy!r} leaves no train image in class {name!r}{why}: "
                f"choose another policy ({', '.join(AS_PUBLISHED)}) or add images."
            )
    line = (
        f"Policy {policy}: {train.num_examples:,} of {size:,} train images stay; "
        f"left out: {', '.join(left_out) or 'none'}. Test: {test_size:,}"
        f"{', as found' if policy != 'corrected' else ''}."
    )
    return dataset._replace(train=train, unreadable=()), line


def _refuse_unreadable(dataset: Dataset, policy: str) -> None:
    files = [file for file in dataset.unreadable if policy == "keep" or file.split == "test"]
    if files:
        rule = "policy 'keep' leaves out nothing" if policy == "keep" else "Test must stay whole"
        raise UserError(
            f"{len(files):,} unreadable {'file' if len(files) == 1 else 'files'}, and {rule}: "
            f"repair or remove {files[0].name!r} in {files[0].split} ({files[0].reason})"
            f"{' and the others' if len(files) > 1 else ''}."
        )


def _leavers(
    label: Int32, audit: Audit, policy: str
) -> tuple[npt.NDArray[np.bool_], dict[str, int]]:
    """Decide which train images stay, and count the removed ones by reason."""
    keep = ~np.isin(audit.train_near, audit.test_near)
    sizes = np.bincount(label)
    of_test, contradicted, further = int((~keep).sum()), 0, 0
    for copies in members(audit.train_copy):
        if not keep[copies[0]]:
            continue
        winners = copies
        if np.ptp(label[copies]) > 0:
            # Among classes of equal size, the alphabetically first.
            rarest = min(label[copies], key=lambda k: (sizes[k], k))
            winners = copies[label[copies] == rarest] if policy != "drop" else copies[:0]
        keep[copies] = False
        keep[winners[:1]] = True
        contradicted += len(copies) - len(winners)
        further += max(len(winners) - 1, 0)
    return keep, {
        "copies of test images": of_test,
        "under a contradicted label": contradicted,
        "further copies": further,
    }
