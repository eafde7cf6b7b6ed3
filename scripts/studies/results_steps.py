"""The commands whose results are in docs/results.md, in their order."""

from collections.abc import Sequence
from pathlib import Path

RECIPE = "configs/isic9_corrected.py"
# The nine classes as published; of an image with several labels the rarest counts.
PUBLISHED = ("--config.policy=rarest", "--config.corrections=")
SEEDS, FOLDS = (0, 1, 2), 5

# A command of fedjax-med, and the flags that make each of its runs alone.
Step = tuple[list[str], list[str]]


def steps(workdir: Path, metadata: Path) -> list[Step]:
    """List the commands in their order: those that use Test come last.

    Args:
        workdir: of all of them.
        metadata: the table with a column ``lesion``.
    """
    lesions = [f"--config.groups.path={metadata}", "--config.groups.column=lesion"]
    compare = ["compare", f"--config={RECIPE}", *lesions]
    kept = workdir / "contribution"
    train = ["train", f"--config={RECIPE}", *lesions, "--config.keep_updates=True"]
    seeds = [f"--seeds={seed}" for seed in SEEDS]
    every = f"--seeds={','.join(map(str, SEEDS))}"
    inside = [*compare, f"--folds={FOLDS}", f"--workdir={workdir / 'inside'}"]
    return [
        ([*inside, every], seeds),
        *(_crossvalidate(workdir / "by_image", seed) for seed in SEEDS),
        *(_crossvalidate(workdir / "published", seed, PUBLISHED) for seed in SEEDS),
        ([*train, f"--workdir={kept}"], [""]),
        (["contribution", f"--workdir={kept}"], []),
        ([*compare, every, f"--workdir={workdir / 'test'}"], seeds),
    ]


def _crossvalidate(folder: Path, seed: int, changes: Sequence[str] = ()) -> Step:
    to = [f"--config.seed={seed}", f"--workdir={folder / f'seed_{seed}'}"]
    command = ["crossvalidate", f"--config={RECIPE}", *changes, *to, f"--folds={FOLDS}"]
    return command, [f"--only={fold}" for fold in range(FOLDS)]
