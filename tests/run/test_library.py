"""Experiments that a program trains and evaluates."""

import pytest
import tiny

import fedjax_med as fm
from fedjax_med.run import train as run_train


def test_an_experiment_of_a_program_is_checked_as_one_of_a_file_is(tmp_path):
    for change, said in (
        ({"rounds": "3"}, "expected rounds to be of type int"),
        ({"algorithm": "fed_prox"}, "expected algorithm to be of type Spec"),
        ({"rouns": 3}, "Did you mean 'rounds'"),
    ):
        experiment = fm.Experiment()
        vars(experiment).update(change)
        with pytest.raises(fm.UserError, match=said):
            fm.train(experiment, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_experiment_trains_and_is_evaluated_from_a_program(tmp_path, capsys):
    experiment = fm.load_config(tiny.__file__)
    experiment.rounds, experiment.client.epochs = 2, 1
    run = fm.train(experiment, workdir=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert [record["round"] for record in run.records] == [1, 2]
    assert capsys.readouterr().out.count("Compiling a round") == 1
    left = run.workdir / ".evaluation.json.4711.0123abcd.tmp"  # by a killed run
    left.touch()
    assert fm.evaluate_run(run.workdir) == run.evaluation
    assert not left.exists()
    assert fm.train(experiment, workdir=tmp_path / "run", cache_dir=tmp_path / "cache") == run
    out = capsys.readouterr().out
    assert "All is done already: 2 rounds." in out
    assert "Compiling" not in out


def test_a_run_that_a_signal_stopped_interrupts_the_program_and_says_where_it_is(monkeypatch):
    jobs = []
    monkeypatch.setattr(run_train, "train", lambda job: jobs.append(job) or 1)
    with pytest.raises(KeyboardInterrupt, match="stopped after a checkpoint in runs/tiny"):
        fm.train(fm.Experiment(name="tiny"), evaluate=False)
    with pytest.raises(KeyboardInterrupt, match="runs/experiment"):
        fm.train(fm.Experiment())
    assert [(job.workdir.name, job.evaluate) for job in jobs] == [
        ("tiny", ""),
        ("experiment", "best"),
    ]
