"""The commands whose results are in docs/results.md, in their order."""

from pathlib import Path

RECIPE = "configs/isic9_corrected.py"
PUBLISHED = f"{RECIPE}:published"
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
        *(_crossvalidate(RECIPE, workdir / "by_image", seed) for seed in SEEDS),
        *(_crossvalidate(PUBLISHED, workdir / "published", seed) for seed in SEEDS),
        ([*train, f"--workdir={kept}"], [""]),
        (["contribution", f"--workdir={kept}"], []),
        ([*compare, every, f"--workdir={workdir / 'test'}"], seeds),
    ]


def _crossvalidate(config: str, folder: Path, seed: int) -> Step:
    at = [f"--config={config}", f"--config.seed={seed}", f"--workdir={folder / f'seed_{seed}'}"]
    command = ["crossvalidate", *at, f"--folds={FOLDS}"]
    return command, [f"--only={fold}" for fold in range(FOLDS)]
