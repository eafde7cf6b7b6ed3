"""Formats what features tell of the labels, and what it may mean."""

from fedjax_med.data.audit import class_pairs, sources
from fedjax_med.data.audit.evidence import Evidence
from fedjax_med.errors import printable

_DOUBTS = 20  # labels listed
_ROWS = 10  # pairs, or sources, listed
# Class and source that are this independent: a model has little reason to learn the source.
_INDEPENDENT = 0.1


def lines(found: Evidence, cramers_v: float, more: str) -> list[str]:
    """Format the evidence for people.

    Args:
        found: the evidence.
        cramers_v: of classes and sources, 0 if these are not known.
        more: the file with the rest.
    """
    classes = sum(size > 0 for size in found.sizes)
    return [
        f"What {found.width:,} features tell: {printable(found.features, 300)}",
        f"  of {found.images:,} images of Train without copies, by others in five folds: balanced "
        f"accuracy {found.balanced_accuracy:.2f} (chance {1 / classes:.2f})",
        "",
        *_doubts(found, more),
        "",
        *_pairs(found, more),
        *_sources(found, cramers_v, more),
    ]


def _doubts(found: Evidence, more: str) -> list[str]:
    made = [
        f"{len(found.doubts):>5,}  doubtful labels (confident learning): wrong ones, and mistakes "
        "of these features. Look at the images"
    ]
    made += [
        f"           {printable(one.name, 120)}: {printable(one.likely)}? "
        f"({printable(one.label)}: {one.confidence:.3f})"
        for one in found.doubts[:_DOUBTS]
    ]
    return made + _rest(len(found.doubts), _DOUBTS, more)


def _pairs(found: Evidence, more: str) -> list[str]:
    doubtful = found.doubtful_pairs()
    made = [f"{len(doubtful):>5,}  pairs of classes that cannot be told apart"]
    for pair in doubtful[:_ROWS]:
        one, other = _by_size(found, pair.classes)
        made.append(
            f"         Warning: {one} cannot be told from {other} ({pair.area}): is one a "
            "relabelled part of the other?"
        )
    made += _rest(len(doubtful), _ROWS, more)
    weak = [pair for pair in found.pairs if pair.alike() and not pair.doubtful(found.trained)]
    if weak:
        one, other = _by_size(found, weak[0].classes)
        made.append(
            f"         No warning of {len(weak):,} more, such as {one} and {other} "
            f"({weak[0].area}): these features are too weak to prove it (docs/own_data.md)."
        )
    if not found.pairs:
        made.append(f"         not compared: no two classes have {class_pairs.LEAST} images")
    return made


def _by_size(found: Evidence, classes: tuple[int, int]) -> list[str]:
    """Return the names of two classes, the smaller one first."""
    order = sorted(classes, key=lambda k: found.sizes[k])
    return [printable(found.class_names[k]) for k in order]


def _sources(found: Evidence, cramers_v: float, more: str) -> list[str]:
    if found.sources is None:
        return []
    made = ["", f"{'':>5}  Telling the source by the features:"]
    for one in found.sources[:_ROWS]:
        where = f"within {printable(one.within)}" if one.within else "all classes"
        made.append(f"           {where}: {printable(one.source)} from the rest ({one.area})")
    made += _rest(len(found.sources), _ROWS, more)
    within = [one for one in found.sources if one.within]
    if not within:
        made.append(
            f"         No class has {sources.LEAST} images of two sources: nothing here tells "
            "the source from the disease."
        )
    if cramers_v >= _INDEPENDENT and any(one.area.low > 0.5 for one in within):
        made.append(
            "         Warning: what a model learns may be the source: the images show it within "
            "one class, and classes differ in it."
        )
    return made


def _rest(count: int, shown: int, more: str) -> list[str]:
    return [f"           ... and {count - shown:,} more, see {more}"] if count > shown else []
