"""The scripts that search a recipe and publish its results."""

import ast
import itertools
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import shipped
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import results  # noqa: E402
import search_recipe  # noqa: E402
import variants  # noqa: E402
from studies import processes, results_page, results_steps  # noqa: E402

from fedjax_med.cli import main as cli  # noqa: E402
from fedjax_med.contribution import valuation  # noqa: E402
from fedjax_med.evaluation import metrics, per_client, predictions  # noqa: E402
from fedjax_med.experiment import resolve  # noqa: E402

CLASSES = ("melanoma", "nevus", "other")


@pytest.mark.parametrize("family", search_recipe.FAMILIES)
def test_every_variant_of_a_recipe_is_one_that_crossvalidate_takes(family):
    for flags in search_recipe.FAMILIES[family].values():
        _, parsed = cli.parse("crossvalidate", [f"--config={ROOT / results_steps.RECIPE}", *flags])
        resolve.settle(parsed.config)


def test_an_unknown_family_is_told(capsys):
    with pytest.raises(SystemExit, match="2"):
        search_recipe.main(["wrong"])
    assert "choose from rates" in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize("dinov2", [None, Path("small.safetensors")])
def test_every_step_is_a_command_and_test_comes_last(tmp_path, dinov2):
    steps = results_steps.steps(tmp_path, tmp_path / "metadata.csv", dinov2)
    assert any("dinov2_small" in " ".join(step) for step, _ in steps) == (dinov2 is not None)
    for (name, *flags), runs in steps:
        flags = [flag.replace("configs/", f"{ROOT}/configs/") for flag in flags]
        for one in runs or [""]:
            cli.parse(name, [*flags, *filter(None, [one])])
    folded = [any(flag.startswith("--folds=") for flag in step) for step, _ in steps]
    on_test = [
        step[0] == "compare" and not known for (step, _), known in zip(steps, folded, strict=True)
    ]
    assert on_test == [False] * (len(steps) - 1) + [True]


def predictions_of(right, seed, prefix=""):
    """Predictions of 60 images of which this share is right."""
    rng = np.random.default_rng(seed)
    label = np.arange(60, dtype=np.int32) % 3
    guess = np.where(np.arange(60) < right * 60, label, (label + 1) % 3)
    scores = rng.uniform(0, 0.1, (60, 3))
    scores[np.arange(60), guess] += 1
    image = np.array([f"{prefix}{number}.jpg" for number in range(60)])
    nobody = np.full(60, -1, np.int32)
    return predictions.Predictions(image, nobody, label, scores / scores.sum(1, keepdims=True))


def evaluation(right, seed):
    """An evaluation of them."""
    found = predictions_of(right, seed)
    return metrics.summarize(found.probabilities, found.label, CLASSES)


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))
    line = {"round": 1, "seconds": 90.0, "clients": {"steps": [1.0]}}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def compared(folds):
    difference = {"mean": 0.125, "interval": [0.1, 0.2], "by_seed": [0.125] * 3}
    shown = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "log_loss")
    scores = {
        name: [dict.fromkeys(shown, 0.5 + 0.1 * seed) for seed in results_steps.SEEDS]
        for name in ("local", "federated", "centralized")
    }
    return {
        "seeds": list(results_steps.SEEDS),
        "names": [],
        "absent_classes": [],
        "folds": folds,
        "test_images": 60,
        "steps": {"local": 3, "federated": 3, "centralized": 3},
        "scores": scores,
        "hospitals": {"local_0": scores["local"]},
        "federated_minus": {
            name: {"centralized": difference, "local": difference, "local_0": difference}
            for name in shown
        },
    }


@pytest.fixture
def workdir(tmp_path):
    for seed in results_steps.SEEDS:
        for fold in range(results_steps.FOLDS):
            folder = tmp_path / f"inside/seed_{seed}/federated/fold_{fold}"
            write(folder, "evaluation.json", {})
            found = predictions_of(0.8, seed, f"{fold}_")
            alone = np.full(60, "")
            predictions.write(found, CLASSES, folder / predictions.NAME, alone)
        for name, right in (("by_image", 0.9), ("published", 0.7)):
            write(tmp_path / name / f"seed_{seed}", "crossvalidation.json", evaluation(right, seed))
        found = predictions_of(1, seed)
        group = np.array(["a"] * 2 + [""] * 58)
        on_test = per_client.summarize_predictions(found, CLASSES, (), group)
        wrong = predictions_of(0.6, seed)
        mates = np.arange(60) < 0
        on_test["groups"] |= per_client.without_mates(wrong, group, mates)
        write(tmp_path / f"test/seed_{seed}/federated", "evaluation.json", on_test)
    write(tmp_path / "inside", "comparison.json", compared(results_steps.FOLDS))
    write(tmp_path / "test", "comparison.json", compared(0))
    none = np.zeros(2)
    kept = valuation.Contribution(np.array([0.25, 0]), none, none, np.zeros((0, 2)), 0.5, 0.75, 0)
    said = {"round": 1, "rounds": 1, "metric": "loss"} | valuation.to_json(kept, (7, 8), ())
    write(tmp_path / "contribution", "contribution.json", said)
    return tmp_path


def test_the_document_says_what_the_commands_found(workdir):
    for part, grey in (("Train", 200), ("Test", 100)):
        (workdir / part / "melanoma").mkdir(parents=True)
        for number in (7, 9, 30):
            pixels = np.full((16, 16, 3), grey, np.uint8)
            pixels[:8] += 20
            file = workdir / part / "melanoma" / f"ISIC_{grey}{number:02d}.png"
            Image.fromarray(pixels).save(file)
    text = results_page.text(workdir, "2 runs at a time", workdir)
    for line in (
        "| eight classes, folds of lesions: balanced accuracy | at least 0.71 | 0.800 ± 0.000 |",
        "| eight classes, folds of images: balanced accuracy |  | 0.900 ± 0.000 |",
        "| nine classes as published, folds of images |  | 0.700 ± 0.000 |",
        "| federated - local, folds of lesions | at least +0.05 | +0.125 (+0.100 to +0.200) |",
        "| accuracy | 1.000 ± 0.000 | 0.600 ± 0.000 |",
        "take 1.5 to 1.5 minutes",
        "| Test | 20 | 1.000 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 |",
        "| Train, 3 | 20007, 20009, 20030 | 210, 210, 210 | 10 |",
        "| Test, 3 | 10007, 10009, 10030 | 110, 110, 110 | 10 |",
    ):
        assert line in text
    assert text.count("```") == 2 * 3


def test_the_document_says_what_was_found_with_dinov2(workdir):
    for part in ("Train", "Test"):
        (workdir / part / "melanoma").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(workdir / part / "melanoma" / "ISIC_1.png")
    rights = {"by_lesion": 0.5, "by_image": 0.6, "published": 0.4}
    for (name, right), seed in itertools.product(rights.items(), results_steps.SEEDS):
        folder = workdir / "dinov2" / name / f"seed_{seed}"
        write(folder, "crossvalidation.json", evaluation(right, seed))
    text = results_page.text(workdir, "2 runs at a time", workdir)
    for line in (
        "| inside Train | target | measured | target with DINOv2-S | measured with it |",
        "balanced accuracy | at least 0.71 | 0.800 ± 0.000 | at least 0.73 | 0.500 ± 0.000 |",
        "| nine classes as published, folds of images |  | 0.700 ± 0.000 | at least 0.68 | 0.400 ±",
        "| federated - local, folds of lesions | at least +0.05 | +0.125 (+0.100 to +0.200) |  |",
    ):
        assert line in text


def test_commands_go_to_logs_and_failures_are_told(tmp_path, capfd):
    nowhere = ["audit", f"--data_dir={tmp_path / 'nowhere'}", "--config.dataset.name=image_folder"]
    assert results.train_all([["--help"], nowhere], 2, tmp_path) == 2
    assert "crossvalidate" in (tmp_path / "1.log").read_text()
    told = capfd.readouterr()
    assert "[1 of 2] fedjax-med --help" in told.out
    assert "crossvalidate" not in told.out
    assert "nowhere" in told.err


def test_the_page_of_the_variants_is_what_their_tables_say():
    assert (ROOT / "docs" / "variants.md").read_text() == variants.document()
    for path in shipped.VARIANTS:
        assert f"| `{path.rpartition(':')[2]}` |" in variants.document()


@pytest.fixture
def two_variants(tmp_path):
    """A config file of two variants, one of which expects what no model gives."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from fedjax_med.experiment.config import Checkpoint, Experiment, Privacy, Spec\n"
        "from fedjax_med.experiment.variants import Variant, choose\n"
        "VARIANTS = {\n"
        "    'private': Variant('', {'privacy': Privacy('client')}, 0.5, {'epsilon': 3.0}),\n"
        "    'wrong': Variant('', {'seed': 1}, 2.0),\n"
        "}\n"
        "def get_config(variant=''):\n"
        "    return choose(Experiment(rounds=1, num_clients=2, image_size=16,\n"
        "        dataset=Spec('lesions', {'train_size': 45, 'test_size': 9}),\n"
        "        model=Spec('linear'), checkpoint=Checkpoint(every=1)), VARIANTS, variant)\n"
    )
    return file


@pytest.mark.slow
def test_the_study_trains_variants_and_fails_where_one_differs(two_variants, tmp_path, capsys):
    flags = [f"--config={two_variants}", f"--workdir={tmp_path / 'runs'}"]
    flags += [f"--cache_dir={tmp_path / 'cache'}"]
    assert variants.main([*flags, "--tolerance=9", "private"]) == 0
    private, epsilon = capsys.readouterr().out.splitlines()[-2:]
    evaluation = json.loads((tmp_path / "runs/private/evaluation.json").read_text())
    found = f"{evaluation['balanced_accuracy']:.3f}"
    assert private == f"| private | balanced_accuracy | 0.5 | {found} | yes |"
    assert epsilon.startswith("| private | epsilon | 3.0 | ")
    assert not (tmp_path / "runs" / "wrong").exists()
    assert variants.main(flags) == 1
    assert "| wrong | balanced_accuracy | 2.0 | 0." in capsys.readouterr().out
    assert variants.main([*flags, "wrong", "--config.rounds=0"]) == 2


def test_the_study_tells_of_a_variant_that_does_not_exist(two_variants, capsys):
    with pytest.raises(SystemExit, match="2"):
        variants.main([f"--config={two_variants}", "wrung"])
    assert "Did you mean 'wrong'?" in capsys.readouterr().err


def test_a_difference_within_the_tolerance_is_none():
    expected = {"balanced_accuracy": 0.5, "backdoor_success": 0.1}
    results = variants.found({"balanced_accuracy": 0.52, "backdoors": [{"success": 0.2}]})
    rows = variants.compare(expected, results, 0.03)
    assert [row[-1] for row in rows] == [True, False]


PRINT_CORES = "import os; print(sorted(os.sched_getaffinity(0)))"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins nothing")
def test_processes_share_the_cores_without_overlap(tmp_path):
    mine = os.sched_getaffinity(0)
    logs = [tmp_path / f"{number}" / "log.txt" for number in range(3)]
    tasks = [processes.Task(log.parent.name, exec, (PRINT_CORES,), log) for log in logs]
    assert [code for _, code in processes.run_all(tasks, 2)] == [0, 0, 0]
    assert os.sched_getaffinity(0) == mine
    first, second, third = (set(ast.literal_eval(log.read_text())) for log in logs)
    if len(mine) > 1:
        assert not first & second
        assert first | second == mine
    assert third in (first, second)


def test_processes_end_with_their_code_and_say_why(tmp_path, capfd):
    bad = {"told": "print('before', flush=True); raise ValueError('because')", "code": "exit(3)"}
    tasks = [processes.Task(name, exec, (code,), tmp_path / name) for name, code in bad.items()]
    killed = processes.Task("killed", exec, ("import os; os.kill(os.getpid(), 9)",), tmp_path / "k")
    codes = {task.name: code for task, code in processes.run_all([*tasks, killed], 1)}
    assert codes == {"told": 1, "code": 3, "killed": -9}
    err = capfd.readouterr().err
    assert "told: ValueError: because" in err
    assert "killed: exit code -9" in err


def test_processes_end_when_nobody_waits_for_them(tmp_path):
    sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    tasks = [
        processes.Task("quick", exec, ("pass",), tmp_path / "quick"),
        processes.Task("slow", exec, (sleep,), tmp_path / "slow"),
    ]
    ended = processes.run_all(tasks, 2)
    next(ended)
    (process,) = multiprocessing.active_children()
    ended.close()
    process.join(20)
    assert process.exitcode == -15


SCRIPTS = sorted(file for file in (ROOT / "scripts").rglob("*.py"))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_stay_short(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 45, f"{file.name}: {node.name}"
