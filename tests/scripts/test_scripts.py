"""The scripts that search a recipe and publish its results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import results  # noqa: E402
import search_recipe  # noqa: E402

from fedjax_med.cli import main as cli  # noqa: E402
from fedjax_med.evaluation import metrics  # noqa: E402
from fedjax_med.experiment import resolve  # noqa: E402

CLASSES = ("melanoma", "nevus", "other")


@pytest.mark.parametrize("family", search_recipe.FAMILIES)
def test_every_variant_of_a_recipe_is_one_that_crossvalidate_takes(family):
    for flags in search_recipe.FAMILIES[family].values():
        _, parsed = cli.parse("crossvalidate", [f"--config={ROOT / results.RECIPE}", *flags])
        resolve.settle(parsed.config)


def test_an_unknown_family_is_told(capsys):
    with pytest.raises(SystemExit, match="2"):
        search_recipe.main(["wrong"])
    assert "choose from rates" in capsys.readouterr().err.replace("'", "")


def test_every_step_is_a_command_and_test_comes_last(tmp_path):
    steps = results.steps(tmp_path)
    for (name, *flags), runs in steps:
        flags = [flag.replace("configs/", f"{ROOT}/configs/") for flag in flags]
        for one in runs:
            cli.parse(name, [*flags, *filter(None, [one])])
    on_test = [step[0] != "crossvalidate" for step, _ in steps]
    assert on_test == sorted(on_test)


def evaluation(right, seed):
    """An evaluation of 60 images of which this share is right."""
    rng = np.random.default_rng(seed)
    label = np.arange(60) % 3
    guess = np.where(np.arange(60) < right * 60, label, (label + 1) % 3)
    scores = rng.uniform(0, 0.1, (60, 3))
    scores[np.arange(60), guess] += 1
    return metrics.summarize(
        scores / scores.sum(1, keepdims=True), label, CLASSES, num_resamples=10
    )


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))
    line = {"round": 1, "seconds": 90.0, "clients": {"steps": [1.0]}}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


@pytest.fixture
def workdir(tmp_path):
    for name, right in (("crossvalidation", 0.8), ("crossvalidation_short", 0.7)):
        folds = [evaluation(right, fold) for fold in range(2)]
        write(tmp_path / name, "crossvalidation.json", {**evaluation(right, 9), "folds": folds})
        for fold in range(2):
            write(tmp_path / f"{name}/fold_{fold}", "evaluation.json", {})
    difference = {"mean": 0.125, "interval": [0.1, 0.2], "by_seed": [0.125] * 3}
    shown = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "log_loss")
    scores = {
        name: [dict.fromkeys(shown, 0.5 + 0.1 * seed) for seed in results.SEEDS]
        for name in ("local", "federated", "centralized")
    }
    compared = {
        "seeds": list(results.SEEDS),
        "names": [],
        "absent_classes": [],
        "folds": 0,
        "test_images": 60,
        "steps": {"local": 3, "federated": 3, "centralized": 3},
        "scores": scores,
        "hospitals": {"local_0": scores["local"]},
        "federated_minus": {
            name: {"centralized": difference, "local": difference, "local_0": difference}
            for name in shown
        },
    }
    write(tmp_path / "comparison", "comparison.json", compared)
    for seed in results.SEEDS:
        write(
            tmp_path / f"comparison/seed_{seed}/federated", "evaluation.json", evaluation(1, seed)
        )
        write(tmp_path / f"rarest/seed_{seed}", "evaluation.json", evaluation(0.6, seed))
        write(tmp_path / f"keep/seed_{seed}", "evaluation.json", evaluation(0.5, seed))
    return tmp_path


def test_the_document_says_what_the_commands_found(workdir):
    for part, grey in (("Train", 200), ("Test", 100)):
        (workdir / part / "melanoma").mkdir(parents=True)
        for number in (7, 9, 30):
            pixels = np.full((16, 16, 3), grey, np.uint8)
            pixels[:8] += 20
            file = workdir / part / "melanoma" / f"ISIC_{grey}{number:02d}.png"
            Image.fromarray(pixels).save(file)
    text = results.text(workdir, "2 runs at a time", workdir)
    for line in (
        "| Test, accuracy | at least 0.65 | 0.600 ± 0.100 |",
        "| cross-validation, balanced accuracy | at least 0.73 | 0.800 ± 0.000 |",
        "| federated - local, balanced accuracy on Test | at least +0.10 "
        "| +0.125 (+0.100 to +0.200) |",
        "| short recipe, cross-validation, balanced accuracy | within 0.03 of 0.800 ± 0.000 "
        "| 0.700 ± 0.000 |",
        "| accuracy | 0.600 ± 0.000 | 0.500 ± 0.000 |",
        "trains for 1.5 to 1.5 minutes",
        "| Test | 20 | 1.000 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 |",
        "| Train, 3 | 20007, 20009, 20030 | 210, 210, 210 | 10 |",
        "| Test, 3 | 10007, 10009, 10030 | 110, 110, 110 | 10 |",
    ):
        assert line in text
    assert text.count("```") == 2 * (1 + len(results.SEEDS))


def test_commands_run_with_their_share_of_the_cores_and_failures_are_told(
    tmp_path, capsys, monkeypatch
):
    nowhere = ["audit", f"--data_dir={tmp_path / 'nowhere'}", "--config.dataset.name=image_folder"]
    assert results.train_all([["--help"], nowhere], 2, tmp_path) == 2
    assert "crossvalidate" in (tmp_path / "1.log").read_text()
    told = capsys.readouterr()
    assert "[1 of 2] fedjax-med --help" in told.out
    assert "nowhere" in told.err
    killed = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(results, "PINNED", killed)
    assert results.train_all([["--help"]], 1, tmp_path) == -9
