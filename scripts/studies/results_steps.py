"""The commands whose results are in docs/results.md, in their order."""

from pathlib import Path

RECIPE, SHORT = "configs/isic9_pretrained.py", "configs/isic9_pretrained.py:fast"
SEEDS, FOLDS = (0, 1, 2), 5
POLICIES = ("rarest", "keep")  # what is compared; the first one is the default

# A command of fedjax-med, and the flags that make each of its runs alone.
Step = tuple[list[str], list[str]]


def steps(workdir: Path) -> list[Step]:
    """List the commands in their order: those that use Test come last."""
    seeds = ",".join(map(str, SEEDS))
    compare = ["compare", f"--config={RECIPE}", f"--workdir={workdir / 'comparison'}"]
    return [
        _crossvalidate(RECIPE, workdir / "crossvalidation"),
        _crossvalidate(SHORT, workdir / "crossvalidation_short"),
        ([*compare, f"--seeds={seeds}"], [f"--seeds={seed}" for seed in SEEDS]),
        *(_of_policy(policy, seed, workdir) for policy in POLICIES for seed in SEEDS),
    ]


def _crossvalidate(config: str, folder: Path) -> Step:
    command = ["crossvalidate", f"--config={config}", f"--folds={FOLDS}", f"--workdir={folder}"]
    return command, [f"--only={fold}" for fold in range(FOLDS)]


def _of_policy(policy: str, seed: int, workdir: Path) -> Step:
    fields = [f"--config.policy={policy}", f"--config.seed={seed}"]
    folder = workdir / f"{policy}/seed_{seed}"
    return ["train", "--evaluate", f"--config={SHORT}", *fields, f"--workdir={folder}"], [""]
