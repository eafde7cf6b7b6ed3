"""A run is five objects in a row, each made once; the command and the library share one loop."""

import json

import jax
import numpy as np
import pytest
import tiny
import toy

from fedjax_med.cli import main as cli
from fedjax_med.execution import rounds as one_loop
from fedjax_med.execution.rounds import rounds
from fedjax_med.experiment import config_file, load_data, resolve
from fedjax_med.experiment.plan import compile_plan, first_state
from fedjax_med.run import load, loop
from fedjax_med.run import train as run_train

TINY = f"--config={tiny.__file__}"
QUICK = ("--config.model.name=linear", "--config.client.epochs=1", "--config.rounds=2")


def counted(patch, module, name):
    """Count the calls of `module.name`."""
    calls, function = [], getattr(module, name)

    def spy(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    patch.setattr(module, name, spy)
    return calls


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that was trained and evaluated, and how often each step was taken."""
    workdir = tmp_path_factory.mktemp("spine")
    with pytest.MonkeyPatch.context() as patch:
        calls = {
            "read": counted(patch, config_file, "read"),
            "settle": counted(patch, resolve, "settle"),
            "load": counted(patch, load_data, "load"),
            "plan": counted(patch, run_train, "make_plan"),
            "loop": counted(patch, loop, "rounds"),
            "plan again": counted(patch, load, "make_plan"),
        }
        assert cli.main(["train", TINY, f"--workdir={workdir}", *QUICK, "--evaluate"]) == 0
    return workdir, {name: len(made) for name, made in calls.items()}


def test_an_experiment_is_read_settled_and_planned_once(run):
    _, calls = run
    assert calls.pop("plan again") == 0
    assert set(calls.values()) == {1}, calls


def test_the_librarys_rounds_are_those_of_the_command(run):
    workdir, _ = run
    loaded = load.load_run(load.read_run(workdir), from_start=True)
    plan, train = loaded.plan, loaded.data.train
    start = first_state(plan, train.shapes())
    seen = []
    for result in rounds(compile_plan(plan), start, train, plan.key, num_rounds=2):
        seen.append(float(np.sum(result.metrics["loss"]) / np.sum(result.metrics["count"])))
        last = jax.device_get(result.state)
    toy.assert_same_bits(last, load.restore(loaded).state)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(seen, [record["train_loss"] for record in records], rtol=1e-6)


def test_evaluating_again_makes_the_same_plan_from_the_workdir(run, monkeypatch):
    workdir, _ = run
    before = (workdir / "evaluation.json").read_text()
    plans = counted(monkeypatch, load, "make_plan")
    assert cli.main(["evaluate", f"--workdir={workdir}"]) == 0
    assert (workdir / "evaluation.json").read_text() == before
    assert len(plans) == 1


def test_rounds_resume_where_the_state_is_and_end_when_closed(run):
    workdir, _ = run
    loaded = load.load_run(load.read_run(workdir), from_start=True)
    plan, train = loaded.plan, loaded.data.train
    compiled = compile_plan(plan)
    done = load.restore(loaded).state
    assert list(rounds(compiled, done, train, plan.key, num_rounds=2)) == []
    left = rounds(compiled, done, train, plan.key, num_rounds=5)
    assert next(left).round == 3
    left.close()
    assert list(left) == []
    assert one_loop.rounds is loop.rounds


@pytest.mark.parametrize("command", ["compare", "crossvalidate"])
def test_series_of_runs_train_each_as_the_command_train_does(command, monkeypatch, tmp_path):
    jobs = []

    def stopped(job, resolved):
        jobs.append((job.workdir.relative_to(tmp_path).parts[0], resolved.asked))
        return 1

    monkeypatch.setattr(run_train, "_train", stopped)
    settled = counted(monkeypatch, resolve, "settle")
    read = counted(monkeypatch, config_file, "read")
    assert cli.main([command, TINY, f"--workdir={tmp_path}", *QUICK]) == 1
    assert [folder for folder, _ in jobs] == [{"compare": "seed_0"}.get(command, "fold_0")]
    assert (len(settled), len(read)) == (1, 1)
