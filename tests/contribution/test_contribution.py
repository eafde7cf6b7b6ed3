"""Contributions from kept updates: the rounds over again, with some of the clients alone."""

import errno
import functools
import importlib
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.contribution import replay, shapley, valuation
from fedjax_med.core.aggregation import chain
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.errors import UserError
from fedjax_med.evaluation.predict import Validation, predict
from fedjax_med.experiment import config
from fedjax_med.run import message_log
from fedjax_med.transforms import clip, random_k

TINY = f"--config={tiny.__file__}"
SIZES, ROUNDS = (6, 9, 5), 3
KEY = jax.random.key(5)


def held_out():
    data = toy.examples(40, seed=7)
    sizes = np.array([20, 10, 10], np.int32)
    return Validation(np.asarray(data.image), np.asarray(data.label), sizes)


@functools.cache
def toy_run(server="sgd", sparse=False, cohort=False, absent=-1):
    """A run of three clients with its kept updates, and the state that it ended in."""
    optimizers = {"sgd": optax.sgd(1.0), "momentum": optax.sgd(1.0, 0.9), "adam": optax.adam(0.05)}
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.3), 2, 4), optimizers[server])
    transforms = (clip.build(norm=0.3), random_k.build(share=0.5)) if sparse else ()
    aggregator = chain(*transforms, aggregator=mean.build())
    process = Process(algorithm, aggregator, keep_updates=True)
    data = toy.federation(SIZES)
    if absent >= 0:
        data = data._replace(mask=data.mask.at[absent].set(False))
    start = state = process.init(toy.params(), data)
    one_more = jax.jit(process.round)
    kept = {}
    for number in range(1, ROUNDS + 1):
        there = jnp.sort(jnp.arange(number, number + (2 if cohort else 3)) % 3)
        part = jax.tree.map(lambda leaf, there=there: leaf[there], data)
        state, told = one_more(state, RoundBatch(part, (there,)), KEY)
        told = jax.device_get(told)
        zeros = np.zeros_like(told["weight"])
        kept[number] = message_log.Updates(
            told["message"], told["client"], told["weight"], zeros, told["group"]
        )
    return replay.Run(process, KEY, toy.model(), start, ROUNDS, kept.__getitem__, held_out()), state


@pytest.mark.parametrize(
    "options", [{}, {"server": "adam"}, {"cohort": True, "sparse": True}], ids=str
)
def test_the_rounds_of_everybody_end_in_the_model_of_the_run(options):
    run, state = toy_run(**options)
    again = replay.replay(run)
    toy.assert_close(again.server, state.server, rtol=1e-6, atol=1e-7)
    toy.assert_close(again.aggregator, state.aggregator)
    assert replay.distance(again, state, run.start) < 1e-6
    assert replay.distance(run.start, state, run.start) == pytest.approx(1)


def test_predictions_of_a_coalition_are_those_of_a_round_without_the_others():
    run, _ = toy_run()
    sent = run.load(1)
    members = np.array([[True, False, True], [False, False, False]])
    programs, (portion,) = replay.Programs(run), replay.portions(members)
    found = programs.after_round(replay.first(run), replay.sent_of(sent), *portion)
    delta = jax.tree.map(lambda leaf: (6 * leaf[0] + 5 * leaf[2]) / 11, sent.message)
    start = run.start.server.params
    for row, params in zip(found, (jax.tree.map(jnp.subtract, start, delta), start), strict=True):
        expected = predict(run.model, params, run.validation.image)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def value_of(run, params, metric):
    predicted = predict(run.model, params, run.validation.image).astype(np.float64)
    return float(valuation.METRICS[metric](predicted, run.validation.label))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "loss"])
@pytest.mark.parametrize("method", ["multi_round", "one_round"])
@pytest.mark.parametrize("server", ["sgd", "momentum"])
def test_contributions_and_the_server_sum_to_what_the_model_has_gained(method, metric, server):
    run, state = toy_run(server)
    found = valuation.METHODS[method](run, valuation.Measure(metric))
    assert found.start == pytest.approx(value_of(run, run.start.server.params, metric))
    assert found.end == pytest.approx(value_of(run, state.server.params, metric), abs=1e-6)
    total = found.shapley.sum() + found.server
    assert total == pytest.approx(found.end - found.start, abs=1e-9)
    # Without a message the server goes on by its momentum, and only by that.
    by_itself = metric == "loss" and method == "multi_round" and server == "momentum"
    assert (abs(found.server) > 1e-3) == by_itself
    np.testing.assert_array_equal(found.error, 0)


def test_contributions_to_rounds_are_those_of_each_round_by_itself():
    run, _ = toy_run()
    measure = valuation.Measure("loss")
    whole = valuation.multi_round(run, measure)
    state, alone = run.start, np.zeros(3)
    for number in range(1, ROUNDS + 1):
        params = state.server.params

        def value(members, params=params, number=number):
            sent = run.load(number)
            found = []
            for row in members:
                weight = sent.weight * row / max((sent.weight * row).sum(), 1)
                moved = jax.tree.map(
                    lambda p, leaf, weight=weight: p - np.tensordot(weight, leaf, 1),
                    params,
                    sent.message,
                )
                found.append(value_of(run, moved, "loss"))
            return np.array(found)

        expected = shapley.exact(value, 3).value
        np.testing.assert_allclose(whole.by_round[number - 1], expected, atol=1e-5)
        alone += shapley.leave_one_out(value, 3)
        state = replay.Programs(run).serve(
            state._replace(clients=()), replay.sent_of(run.load(number)), jnp.ones(3, bool)
        )
    np.testing.assert_allclose(whole.shapley, whole.by_round.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(whole.leave_one_out, alone, atol=1e-5)


def test_contributions_to_the_last_model_add_up_the_updates_of_all_rounds():
    run, _ = toy_run(cohort=True)

    def value(members):
        found = []
        for row in members:
            params = run.start.server.params
            for number in range(1, ROUNDS + 1):
                sent = run.load(number)
                weight = sent.weight * row[sent.client]
                weight /= max(weight.sum(), 1)
                params = jax.tree.map(
                    lambda p, leaf, weight=weight: p - np.tensordot(weight, leaf, 1),
                    params,
                    sent.message,
                )
            found.append(value_of(run, params, "loss"))
        return np.array(found)

    found = valuation.one_round(run, valuation.Measure("loss"))
    np.testing.assert_allclose(found.shapley, shapley.exact(value, 3).value, atol=1e-5)
    np.testing.assert_allclose(found.leave_one_out, shapley.leave_one_out(value, 3), atol=1e-5)


def test_of_one_round_both_methods_tell_the_same():
    run = toy_run("adam")[0]._replace(rounds=1)
    measure = valuation.Measure("loss")
    one, other = valuation.multi_round(run, measure), valuation.one_round(run, measure)
    np.testing.assert_allclose(one.shapley, other.shapley, atol=1e-6)
    np.testing.assert_allclose(one.leave_one_out, other.leave_one_out, atol=1e-6)
    assert np.abs(one.shapley).max() > 1e-3


@pytest.mark.parametrize("method", ["multi_round", "one_round"])
def test_who_never_counts_contributes_nothing(method):
    run, _ = toy_run(absent=1)
    found = valuation.METHODS[method](run, valuation.Measure("loss"))
    assert found.shapley[1] == found.leave_one_out[1] == 0
    assert np.abs(found.shapley[[0, 2]]).min() > 1e-3


def test_in_a_round_only_its_cohort_contributes():
    found = valuation.multi_round(toy_run(cohort=True, sparse=True)[0], valuation.Measure("loss"))
    away = np.array([[True, False, False], [False, True, False], [False, False, True]])
    np.testing.assert_array_equal(found.by_round == 0, away)


def test_sampled_contributions_are_near_the_exact_ones():
    run, _ = toy_run()
    exact = valuation.multi_round(run, valuation.Measure("loss"))
    found = valuation.multi_round(run, valuation.Measure("loss", permutations=60))
    assert (found.error > 0).all()
    assert (np.abs(found.shapley - exact.shapley) < 4 * found.error).all()
    np.testing.assert_allclose(found.leave_one_out, exact.leave_one_out)
    total = found.shapley.sum() + found.server
    assert total == pytest.approx(found.end - found.start, abs=1e-9)


def test_standard_errors_of_rounds_add_up_as_those_of_independent_draws(monkeypatch):
    shares = shapley.Shares(np.ones(3), np.array([0.1, 2.0, 0.0]))
    monkeypatch.setattr(valuation, "_shapley", lambda *_: shares)
    found = valuation.multi_round(toy_run()[0], valuation.Measure())
    np.testing.assert_allclose(found.shapley, ROUNDS)
    np.testing.assert_allclose(found.error, np.sqrt(ROUNDS) * shares.error)


@pytest.mark.parametrize("method", ["multi_round", "one_round"])
def test_few_coalitions_and_images_at_a_time_tell_the_same(method, monkeypatch):
    run, measure = toy_run()[0], valuation.Measure()
    whole = valuation.METHODS[method](run, measure)
    for module in (replay, valuation):
        monkeypatch.setattr(module, "TOGETHER", 3)
    monkeypatch.setattr(replay, "_CHUNK", 7 * 48)
    parts = valuation.METHODS[method](run, measure)
    np.testing.assert_allclose(parts.shapley, whole.shapley, atol=1e-6)


def test_any_number_of_coalitions_is_one_program():
    run, _ = toy_run()
    programs, sent = replay.Programs(run), replay.sent_of(run.load(1))
    for number in (1, 8, replay.TOGETHER):
        (portion,) = replay.portions(np.arange(number)[:, None] % 4 != np.arange(3))
        assert programs.after_round(replay.first(run), sent, *portion).shape == (number, 40, 3)
    assert programs._after_round._cache_size() == 1


def test_a_model_that_has_diverged_is_worth_a_guess():
    run, _ = toy_run()
    sent = run.load(1)
    broken = jax.tree.map(lambda leaf: leaf.copy(), sent.message)
    broken["w"][1] = np.inf
    run = run._replace(load=lambda number: sent._replace(message=broken), rounds=1)
    found = valuation.multi_round(run, valuation.Measure("loss"))
    assert found.end == pytest.approx(-np.log(3))
    assert np.isfinite(found.shapley).all()
    assert found.shapley[1] == found.shapley.min()


def test_methods_without_one_model_of_all_are_refused():
    run, _ = toy_run()
    valuation.check_process(run.process, "fed_avg")
    algorithm = run.process.algorithm
    for said, changed in (
        (
            "cfl has no one global model",
            algorithm._replace(personal_params=lambda server, client: client),
        ),
        ("cfl has no one global model", algorithm._replace(num_clusters=2)),
        (
            "cfl .* cannot be replayed",
            algorithm._replace(process_updates=lambda server, results: server),
        ),
    ):
        with pytest.raises(UserError, match=said):
            valuation.check_process(run.process._replace(algorithm=changed), "cfl")
    private = run.process.aggregator._replace(is_private=True)
    with pytest.raises(UserError, match="differentially private"):
        valuation.check_process(run.process._replace(aggregator=private), "fed_avg")


def test_runs_without_updates_or_with_private_ones_are_refused():
    valuation.check(config.Experiment(keep_updates=True))
    for said, fields in (
        ("keep_updates=True", {"keep_updates": False}),
        ("setting is centralized", {"setting": "centralized"}),
        ("differentially private", {"privacy": config.Privacy(unit="client")}),
    ):
        with pytest.raises(UserError, match=said):
            valuation.check(config.Experiment(**{"keep_updates": True, **fields}))


def test_updates_are_read_as_they_were_written(tmp_path, monkeypatch):
    message = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones((3,), jnp.bfloat16)}
    told = {
        "message": message,
        "client": np.array([0, 2, 3], np.int32),
        "weight": np.array([4.0, 0.0, 1.0], np.float32),
        "loss_before": np.array([1.0, 2.0, 3.0], np.float32),
    }
    message_log.save(tmp_path, 7, told)
    one = jax.tree.map(lambda leaf: leaf[0], message)
    found = message_log.load(tmp_path, 7, one)
    toy.assert_same_bits(found.message, jax.tree.map(np.asarray, message))
    assert found.message["b"].dtype == jnp.bfloat16
    for name, values in (("client", found.client), ("weight", found.weight)):
        np.testing.assert_array_equal(values, told[name])
    np.testing.assert_array_equal(found.loss, told["loss_before"])
    np.testing.assert_array_equal(found.group, 0)
    with pytest.raises(UserError, match="keep_updates=True"):
        message_log.load(tmp_path, 8, one)
    with pytest.raises(UserError, match="damaged"):
        message_log.load(tmp_path, 7, {**one, "a": jnp.zeros(3)})
    with monkeypatch.context() as patch:
        patch.setattr(message_log, "_header", lambda stream: importlib.import_module("not_there"))
        with pytest.raises(ImportError):  # which is no damage
            message_log.load(tmp_path, 7, one)
    file = tmp_path / "updates" / "round_000007.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        message_log.load(tmp_path, 7, one)


def test_a_full_disk_is_told_in_a_line_and_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    told = {
        "message": np.ones((2, 3)),
        "client": np.arange(2, dtype=np.int32),
        "weight": np.ones(2, np.float32),
    }
    message_log.save(tmp_path, 1, told)

    def full(stream, **arrays):
        stream.write(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for number in (1, 2):
        with pytest.raises(UserError, match="No space left"):
            message_log.save(tmp_path, number, told)
    assert [file.name for file in (tmp_path / "updates").iterdir()] == ["round_000001.npz"]
    np.testing.assert_array_equal(
        message_log.load(tmp_path, 1, np.ones(3)).message, told["message"]
    )


@functools.cache
def hostile_run():
    """A run whose client 0 trains on wrong labels."""
    workdir = Path(tempfile.mkdtemp()) / "run"
    flags = [
        "--config.keep_updates=True",
        "--config.attacks=label_flip",
        "--config.rounds=4",
        "--config.dataset.options.train_size=180",
        "--config.validation_fraction=0.3",
    ]
    assert cli.main(["train", TINY, f"--workdir={workdir}", *flags]) == 0
    return workdir


def tell(*arguments):
    return cli.main(["contribution", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multi_round", "one_round"])
def test_a_hospital_with_wrong_labels_contributes_least(method, capsys):
    workdir = hostile_run()
    assert tell(f"--workdir={workdir}", "--metric=loss", f"--method={method}") == 0
    found = json.loads((workdir / "contribution.json").read_text())
    value = [one["shapley"] for one in found["hospitals"]]
    assert value[0] < min(value[1:]) - 0.02
    alone = [one["leave_one_out"] for one in found["hospitals"]]
    assert alone[0] == min(alone)
    assert sum(one["share"] for one in found["hospitals"]) == pytest.approx(1)
    records = (workdir / "metrics.jsonl").read_text().splitlines()
    assert found["value"]["end"] == pytest.approx(-json.loads(records[-1])["validation"]["loss"])
    out = capsys.readouterr().out
    for word in ("client 0", "leave-one-out", "Shapley value", "share", f"{value[0]:+.4f}"):
        assert word in out
    assert (workdir / "contribution.png").stat().st_size > 0


def test_sampled_values_are_told_with_their_standard_errors(capsys):
    workdir = hostile_run()
    assert tell(f"--workdir={workdir}", "--permutations=4") == 0
    out = capsys.readouterr().out
    assert out.count(" ± ") == 3
    assert "Negative loss" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--workdir=FOLDER"),
        (["--workdir=x", "--metric=auroc"], "balanced_accuracy, loss"),
        (["--workdir=x", "--method=both"], "multi_round, one_round"),
        (["--workdir=x", "--permutations=3"], "an even number"),
        (["--workdir=/does/not/exist"], "experiment.json"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said, capsys):
    assert tell(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_updates_of_another_run_are_refused(capsys):
    workdir = hostile_run()
    file = workdir / "updates" / "round_000001.npz"
    saved = file.read_bytes()
    try:
        file.write_bytes((workdir / "updates" / "round_000003.npz").read_bytes())
        assert tell(f"--workdir={workdir}") == 2
        assert "do not come to the model of its checkpoint" in capsys.readouterr().err
        file.unlink()
        assert tell(f"--workdir={workdir}") == 2
        assert "is not there" in capsys.readouterr().err
    finally:
        file.write_bytes(saved)
