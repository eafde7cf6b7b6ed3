"""The commands whose results are in docs/results.md, in their order."""

from collections.abc import Sequence
from pathlib import Path

RECIPE = "configs/isic9_corrected.py"
# The nine classes as published; of an image with several labels the rarest counts.
PUBLISHED = ("--config.policy=rarest", "--config.corrections=")
# In 40 short rounds the clients' updates mostly cancel each other out, which `multi_round`
# counts as large gains and losses.
VALUED = ("--method=one_round", "--metric=balanced_accuracy")
ALONE = "--config.model.options.discriminant=0"
SEEDS, FOLDS, CLIENTS = (0, 1, 2), 5, 5

# DINOv2-S beside both networks: two views and no changed copies, since it alone takes as long for
# an image as ten passes through both. The other values were chosen for its 12,832 numbers, in
# folds of lesions of seed 0.
_DINOV2 = (
    "--config.model.options.backbones=efficientnet_lite0+efficientnet_lite2+dinov2_small",
    "--config.augment.views=2",
    "--config.augment.copies=0",
    "--config.tta_views=2",
    "--config.model.options.discriminant_views=2",
    "--config.model.options.discriminant=0.3",
    "--config.model.options.shrinkage=0.4",
    "--config.model.options.projection=4300",
    "--config.client.optimizer.options.learning_rate=0.00025",
)

# A command of fedjax-med, and the flags that make each of its runs alone.
Step = tuple[list[str], list[str]]


def steps(workdir: Path, metadata: Path, dinov2: Path | None = None) -> list[Step]:
    """List the commands in their order: those that use Test come last.

    Args:
        workdir: of all of them.
        metadata: the table with a column ``lesion``.
        dinov2: the file of DINOv2-S's weights, to cross-validate with this network, too.
    """
    lesions = [f"--config.groups.path={metadata}", "--config.groups.column=lesion"]
    compare = ["compare", f"--config={RECIPE}", *lesions]
    kept = workdir / "contribution"
    # Of the trained classifier: the sums before round one are those of all hospitals.
    train = ["train", f"--config={RECIPE}", *lesions, "--config.keep_updates=True", ALONE]
    seeds = [f"--seeds={seed}" for seed in SEEDS]
    every = f"--seeds={','.join(map(str, SEEDS))}"
    inside = [*compare, f"--folds={FOLDS}", f"--workdir={workdir / 'inside'}"]
    return [
        ([*inside, every], seeds),
        *_crossvalidations(workdir),
        *(_with_dinov2(workdir / "dinov2", lesions, dinov2) if dinov2 else ()),
        ([*train, f"--workdir={kept}"], [""]),
        (["contribution", f"--workdir={kept}", *VALUED], []),
        ([*compare, every, f"--workdir={workdir / 'test'}"], seeds),
    ]


def with_dinov2(weights: Path) -> list[str]:
    """List the flags that put DINOv2-S beside both networks, with its weights of this file."""
    return [*_DINOV2, f"--config.pretrained=imagenet+imagenet+{weights}"]


def _with_dinov2(folder: Path, lesions: Sequence[str], weights: Path) -> list[Step]:
    flags = with_dinov2(weights)
    by_lesion = [_crossvalidate(folder / "by_lesion", seed, [*lesions, *flags]) for seed in SEEDS]
    return [*by_lesion, *_crossvalidations(folder, flags)]


def _crossvalidations(folder: Path, flags: Sequence[str] = ()) -> list[Step]:
    """List those in folds of images: of the corrected classes, and of those as published."""
    kinds: dict[str, Sequence[str]] = {"by_image": (), "published": PUBLISHED}
    return [
        _crossvalidate(folder / name, seed, [*changes, *flags])
        for name, changes in kinds.items()
        for seed in SEEDS
    ]


def _crossvalidate(folder: Path, seed: int, changes: Sequence[str]) -> Step:
    to = [f"--config.seed={seed}", f"--workdir={folder / f'seed_{seed}'}"]
    command = ["crossvalidate", f"--config={RECIPE}", *changes, *to, f"--folds={FOLDS}"]
    return command, [f"--only={fold}" for fold in range(FOLDS)]
