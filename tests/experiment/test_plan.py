"""What is planned, or refused, before anything is computed."""

import dataclasses

import jax
import pytest
import tiny
import toy

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.plan import compile_plan, first_state, make_plan

COUNTS = (3, 3, 3)  # the training examples of each class


def given(**fields):
    return resolve.settle(resolve.complete(dataclasses.replace(tiny.get_config(), **fields)))


def test_a_plan_computes_nothing_and_its_state_holds_the_clients():
    plan = make_plan(given(), COUNTS, (4, 5))
    assert (plan.privacy, plan.last_round) == (None, 16)
    data = jax.eval_shape(lambda: toy.federation((4, 5, 2)))
    state = jax.eval_shape(lambda: first_state(plan, data))
    assert state.round.shape == ()
    assert compile_plan(plan).process is plan.process


def test_a_setting_without_federation_trains_one_client_and_records_what_was_asked():
    plan = make_plan(given(setting="centralized"), COUNTS)
    assert (plan.experiment.num_clients, plan.trained.num_clients) == (3, 1)


def test_the_seed_alone_decides_the_initial_weights_and_the_key_of_the_rounds():
    model = config.Spec("cnn", {"widths": (2,), "groups": 1})
    plans = [make_plan(given(seed=seed, model=model), COUNTS) for seed in (1, 1, 2)]
    first, again, other = (plan.init_params((16, 16, 3)) for plan in plans)
    toy.assert_same_bits(first, again)
    with pytest.raises(AssertionError):
        toy.assert_same_bits(first, other)
    assert plans[0].key == plans[1].key != plans[2].key


def test_a_budget_brings_the_last_round_forward():
    privacy = config.Privacy(unit="client", noise_multiplier=2.0, delta=1e-3, budget=4.0)
    plan = make_plan(given(privacy=privacy), COUNTS, (3, 3, 3))
    assert 1 <= plan.last_round == plan.privacy.rounds < 16
    assert plan.privacy.account.epsilon(plan.last_round) <= 4 < plan.privacy.account.epsilon(16)


def test_a_resumed_run_keeps_its_client_map_and_needs_no_pretrained_file(tmp_path):
    missing = given(pretrained=str(tmp_path / "nothing.safetensors"))
    with pytest.raises(UserError, match=r"nothing\.safetensors"):
        make_plan(missing, COUNTS).init_params((16, 16, 3))
    plan = make_plan(missing, COUNTS, before="vmap")
    assert (plan.backend.name, plan.backend.why) == ("vmap", "as before")
    assert jax.eval_shape(lambda: plan.init_params((16, 16, 3)))


def test_a_plan_refuses_what_does_not_go_together():
    wrong = given(algorithm=config.Spec("ifca"), aggregator=config.Spec("q_fair"))
    with pytest.raises(UserError, match="weighs clients by the loss of one global model"):
        make_plan(wrong, COUNTS)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("privacy.unit=example --config.algorithm.name=ditto", "algorithm ditto does not go with"),
        ("algorithm.name=ifca --config.aggregator.name=krum", "krum needs"),
        ("ema_decay=0.5 --config.algorithm.name=cfl", "ema_decay does not go with cfl"),
        ("algorithm.name=moon --config.algorithm.options.mu=-1.0", "mu >= 0"),
    ],
)
def test_parts_refuse_each_other_before_any_data_is_read(flag, said, monkeypatch, capsys, tmp_path):
    loads = []
    monkeypatch.setattr(load_data, "load", lambda *arguments: loads.append(arguments))
    named = (f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}")
    command = ["train", *named, *f"--config.{flag}".split()]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err
    assert loads == []
    assert not (tmp_path / "run").exists()
