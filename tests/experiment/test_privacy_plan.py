"""What an experiment promises of privacy, from the config to the files of its run."""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy

from fedjax_med.aggregators import mean
from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.core import aggregation
from fedjax_med.errors import UserError
from fedjax_med.experiment import build, config, resolve, validation
from fedjax_med.experiment.config import Checkpoint, Experiment, Participation, Privacy, Spec
from fedjax_med.privacy.plan import NoiseSource
from fedjax_med.run import console
from fedjax_med.run.checkpoint import Checkpoints

TINY = f"--config={tiny.__file__}"
CLIENT, EXAMPLE = Privacy(unit="client"), Privacy(unit="example")
KEY = jax.random.key(4)


def experiment(privacy, **changes):
    return resolve.complete(Experiment(privacy=privacy, num_clients=3, **changes))


def process_of(given, noise=None):
    trained = resolve.settle(given).trained
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), given.client.epochs, 4)
    training = training._replace(features=toy.features(), step_weight=sgd_step_weight())
    return build.build_process(trained, training, toy.CLASSES, noise)


def guaranteed(given, sizes):
    return toy.planned(given, sizes=sizes).privacy


def one_round(built, data):
    return built.round(built.init(toy.params(), data), data, KEY)[0].server.params


# --- the parts ----------------------------------------------------------------------------------


def test_client_unit_without_noise_and_with_a_huge_clip_is_federated_averaging():
    data = toy.federation((7, 12, 9))
    built = process_of(experiment(Privacy(unit="client", noise_multiplier=0.0, clip_norm=1e6)))
    plain = process_of(experiment(Privacy()))._replace(aggregator=mean.build(weighting="uniform"))
    assert built.aggregator.is_private
    toy.assert_close(one_round(built, data), one_round(plain, data), rtol=1e-4)


def test_example_unit_draws_poisson_batches_of_private_gradients():
    how = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 1, 4)
    given = experiment(Privacy(unit="example", clip_norm=1e-6, noise_multiplier=3.0))
    private_how = build._private_trainer(given, how, 0.0)
    assert private_how.poisson
    gradient, _ = private_how.grad_fn(toy.params(), toy.examples(4), KEY)
    assert 0 < float(optax.tree.norm(gradient)) <= 1.001e-6
    assert build._private_trainer(experiment(Privacy()), how, 0.0) == how


def test_solved_noise_reaches_the_aggregator():
    data = toy.federation((3, 3, 3))
    silent, loud = (process_of(experiment(CLIENT), z) for z in (0.0, 1e3))
    moved = jax.tree.map(jnp.subtract, one_round(loud, data), one_round(silent, data))
    assert float(optax.tree.norm(moved)) > 100


def test_turnout_and_quantile_reach_the_aggregator():
    aggregator = process_of(
        experiment(
            Privacy(unit="client", quantile=0.5),
            participation=Participation(participation_rate=0.5),
        )
    ).aggregator
    messages = {"w": jnp.ones((3, 4))}
    state = aggregator.init({"w": jnp.zeros(4)}, 3, 3)
    assert float(state.expected) == 1.5
    _, after = aggregator.update(messages, aggregation.all_clients(jnp.ones(3)), state, KEY)
    assert after.clip != state.clip
    assert after.expected == state.expected


@pytest.mark.parametrize("privacy", [CLIENT, EXAMPLE], ids=["client", "example"])
def test_private_run_is_not_ended_by_what_a_client_sends(privacy):
    participation = Participation(on_invalid="stop")
    assert process_of(
        experiment(privacy, participation=participation)
    ).faults.participation.skip_invalid
    assert not process_of(
        experiment(Privacy(), participation=participation)
    ).faults.participation.skip_invalid


def test_randomness_of_the_rounds_is_from_the_secret():
    keys = [
        jax.random.key_data(NoiseSource(secret, "a run").key).tolist()
        for secret in ("ab", "ab", "cd")
    ]
    assert keys[0] == keys[1] != keys[2]
    assert all(words[0] != 0 for words in keys)  # a number's key would have 32 bits only


# --- what is refused ----------------------------------------------------------------------------

REFUSED = {
    "a robust aggregator": (CLIENT, {"aggregator": Spec("median")}, "aggregator.name=median"),
    "what changes messages by others'": (
        CLIENT,
        {"transforms": [Spec("adaptive_clip")]},
        "transform adaptive_clip",
    ),
    "a server that reads single messages": (CLIENT, {"algorithm": Spec("scaffold")}, "scaffold"),
    "a server that reads step counts": (CLIENT, {"algorithm": Spec("fed_nova")}, "fed_nova"),
    "messages in a file": (CLIENT, {"keep_updates": True}, "keep_updates"),
    "attacks that see other messages": (
        CLIENT,
        {"attacks": [Spec("inner_product", {"clients": (1,)})]},
        "attack inner_product",
    ),
    "class counts": (EXAMPLE, {"loss": config.Loss(class_balance=0.9)}, "class_balance"),
    "class counts of clients": (CLIENT, {"loss": config.Loss(logit_adjustment=1.0)}, "logit_adj"),
    "mixed examples": (EXAMPLE, {"augment": config.Augment(mixup=0.2)}, "mixup"),
    "examples in one step": (EXAMPLE, {"client": config.Client(batch_size=0)}, "batch_size=0"),
    "a second training": (EXAMPLE, {"algorithm": Spec("ditto")}, "algorithm ditto"),
    "a choice by loss": (EXAMPLE, {"algorithm": Spec("ifca")}, "algorithm ifca"),
    "features of examples": (EXAMPLE, {"algorithm": Spec("moon")}, "algorithm moon"),
    "losses that are sent": (EXAMPLE, {"aggregator": Spec("q_fair")}, "aggregator q_fair"),
    "messages that nobody may use": (EXAMPLE, {"keep_updates": True}, "keep_updates"),
    "a quantile of examples": (Privacy(unit="example", quantile=0.5), {}, "quantile"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_void_the_promise_is_refused_in_one_line(name):
    privacy, changes, match = REFUSED[name]
    with pytest.raises(UserError, match=match) as refused:
        process_of(experiment(privacy, **changes))
    assert "does not go with differential privacy" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("privacy", [Privacy(), CLIENT, EXAMPLE], ids=lambda given: given.unit)
def test_private_aggregator_is_chosen_by_the_unit_alone(privacy):
    with pytest.raises(UserError, match="dp_mean"):
        process_of(experiment(privacy, aggregator=Spec("dp_mean")))


@pytest.mark.parametrize("setting", ["local", "centralized"])
def test_nothing_is_refused_for_clients_where_nothing_is_promised_to_them(setting):
    changes = {"loss": config.Loss(class_balance=0.9), "keep_updates": True}
    resolve.settle(experiment(CLIENT, setting=setting, **changes))
    with pytest.raises(UserError, match="class_balance"):
        resolve.settle(experiment(EXAMPLE, setting=setting, **changes))


def test_groups_are_refused_with_an_adaptive_clip_alone():
    plain = process_of(experiment(CLIENT))
    clusters = plain._replace(
        algorithm=plain.algorithm._replace(num_clusters=2), aggregator=mean.build()
    )

    def check(quantile):
        given = experiment(Privacy(unit="client", quantile=quantile))
        validation.check_parts(given, clusters)

    check(0.0)
    with pytest.raises(
        UserError, match=r"privacy.quantile .* reveals that its cluster has clients"
    ):
        check(0.5)


@pytest.mark.parametrize(
    "changes", [{"clip_norm": 0.0}, {"delta": 1.0}, {"quantile": 1.0}, {"budget": -1.0}]
)
def test_number_out_of_range_is_refused(changes):
    with pytest.raises(UserError, match=f"privacy.{next(iter(changes))}"):
        resolve.settle(experiment(Privacy(unit="client", **changes)))


@pytest.mark.parametrize(
    "name", ["fed_avg", "fed_bn", "fed_dyn", "fed_nova", "fed_per", "fed_prox", "scaffold"]
)
def test_algorithm_that_trains_by_steps_alone_is_allowed(name):
    assert process_of(experiment(EXAMPLE, algorithm=Spec(name))).algorithm.traits.steps_only


# --- what is counted ----------------------------------------------------------------------------


def rate_of(**changes):
    given = experiment(CLIENT, participation=Participation(participation_rate=0.25), **changes)
    return guaranteed(given, (9, 9, 9)).account.uses[0].rate


def test_turnout_amplifies_only_where_no_client_remembers_whether_it_took_part():
    np.testing.assert_allclose(rate_of(), 0.25, rtol=1e-5)
    assert rate_of(algorithm=Spec("fed_avg", {"keep_optimizer": True})) == 1
    assert rate_of(algorithm=Spec("fed_per")) == 1
    assert rate_of(transforms=[Spec("top_k")]) == 1
    assert rate_of(transforms=[Spec("random_k")]) == 1


def test_an_algorithm_with_a_client_state_amplifies_nothing_whatever_it_declares(monkeypatch):
    stateless = build.build_algorithm

    def with_state(*arguments):
        algorithm = stateless(*arguments)
        assert algorithm.traits.stateless_clients
        return algorithm._replace(init=lambda params: (algorithm.init(params)[0], jnp.zeros(1)))

    monkeypatch.setattr(build, "build_algorithm", with_state)
    assert rate_of() == 1


@pytest.mark.parametrize(
    "transform",
    [
        Spec("clip"),
        Spec("quantize", {"bits": 4, "rotate": True}),
        Spec("low_precision"),
        Spec("top_k", {"error_feedback": False}),
    ],
    ids=str,
)
def test_transform_without_memory_leaves_the_amplification(transform):
    np.testing.assert_allclose(rate_of(transforms=[transform]), 0.25, rtol=1e-5)


def test_cohort_of_a_fixed_size_amplifies_nothing():
    given = experiment(CLIENT, cohort=Spec("uniform", {"size": 1}))
    assert guaranteed(given, (9, 9, 9)).account.uses[0].rate == 1


def test_pooled_data_protects_examples_of_all_and_has_no_clients_to_protect():
    assert guaranteed(experiment(CLIENT, setting="centralized"), (27,)) is None
    promise = guaranteed(experiment(EXAMPLE, setting="centralized"), (270,))
    assert promise.account.uses[0].steps == math.ceil(270 / 16)


def test_budget_below_one_round_is_refused_and_a_large_one_changes_nothing():
    with pytest.raises(UserError, match=r"budget of at least 4\.3.*got 1\.0"):
        guaranteed(experiment(Privacy(unit="client", budget=1.0)), (9, 9, 9))
    # With enough noise for a bound: beyond an epsilon of about 29 there is none.
    given = Privacy(unit="client", budget=1e4, noise_multiplier=2.0)
    large = guaranteed(experiment(given), (9, 9, 9))
    assert (large.rounds, large.ended) == (40, False)


def test_budget_without_noise_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"no budget holds with .*noise_multiplier=0, which bounds"):
        guaranteed(experiment(Privacy(unit="client", noise_multiplier=0.0, budget=9.0)), (9, 9, 9))


def test_units_are_clients_or_all_their_examples():
    assert guaranteed(experiment(CLIENT), (9, 8, 7)).units == 3
    assert guaranteed(experiment(EXAMPLE), (9, 8, 7)).units == 24


def said_of(capsys, unit="client", delta=1e-5, **changes):
    given = experiment(Privacy(unit=unit, delta=delta, accountant="rdp"), rounds=2, **changes)
    plan = toy.planned(given, sizes=(9, 9, 9))
    console._say_privacy(plan, plan.privacy)
    return capsys.readouterr().out


def test_run_says_whether_epsilon_counts_on_unknown_clients(capsys):
    half = Participation(participation_rate=0.5)
    amplified, whole = said_of(capsys, participation=half), said_of(capsys)
    of_all = re.search(r"epsilon (\S+) after 2 rounds", whole)[1]
    assert "does not know which clients took part in which round (metrics.jsonl" in amplified
    assert f"otherwise it is {of_all}." in amplified
    assert f"epsilon {of_all} after" not in amplified
    assert "clients took part" not in whole
    remembered = said_of(capsys, participation=half, algorithm=Spec("fed_per"))
    assert "does not lower epsilon: they remember whether they took part" in remembered
    cohort = said_of(capsys, cohort=Spec("uniform", {"size": 2}))
    assert "does not lower epsilon: a cohort of a fixed size" in cohort


@pytest.mark.parametrize(("unit", "number"), [("client", 3), ("example", 27)])
def test_delta_that_would_give_a_unit_away_is_warned_of(unit, number, capsys):
    assert f"is not below 1 / {number} {unit}s" in said_of(capsys, unit, 1.001 / number)
    assert "is not below" not in said_of(capsys, unit, 0.999 / number)


def test_no_noise_is_an_infinite_epsilon_and_null_in_json():
    promise = guaranteed(experiment(Privacy(unit="client", noise_multiplier=0.0)), (9, 9, 9))
    assert promise.spent(3)["epsilon"] is None
    assert promise.spent(0)["epsilon"] == 0


# --- whole runs ---------------------------------------------------------------------------------

QUICK = (
    "--config.client.epochs=1",
    "--config.model.name=linear",
    "--config.client.schedule=constant",
    "--config.privacy.accountant=rdp",
)


def train(workdir, *arguments):
    return cli.main(["train", TINY, f"--workdir={workdir}", *QUICK, *map(str, arguments)])


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def identity(workdir, number):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints.read_identity(number)
    finally:
        checkpoints.close()


BUDGETED = (
    "--config.privacy.unit=client",
    "--config.privacy.noise_multiplier=2",
    "--config.privacy.budget=4",
    "--config.rounds=9",
)


@functools.cache
def budgeted(folder):
    workdir = folder / "run"
    return workdir, train(workdir, *BUDGETED, "--evaluate")


@pytest.mark.slow
def test_budget_ends_a_run_before_it_is_exceeded(tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("budget")
    workdir, code = budgeted(folder)
    out = capsys.readouterr().out
    promise = guaranteed(experiment(Privacy("client", 1.0, 2.0, accountant="rdp")), (9,) * 3)
    allowed = promise.account.rounds_within(4.0, 9)
    assert (code, 0 < allowed < 9) == (0, True)
    assert f"Round {allowed} is the last one: another would exceed the budget of epsilon 4" in out
    assert "not complete" not in out
    spent = [record["epsilon"] for record in records(workdir)]
    assert spent == [promise.account.epsilon(number) for number in range(1, allowed + 1)]
    assert f"epsilon {spent[-1]:.2f}" in out
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    assert evaluation["privacy"] == {
        "unit": "client",
        "epsilon": spent[-1],
        "delta": 1e-5,
        "noise_multiplier": 2.0,
    }
    assert identity(workdir, allowed)["privacy"] == evaluation["privacy"]
    # With the same command it is complete; without its secret it is over.
    assert train(workdir, *BUDGETED) == 0
    assert len(records(workdir)) == allowed
    (workdir / "noise_key").unlink()
    assert train(workdir, *BUDGETED) == 2
    assert "is missing" in capsys.readouterr().err


SEEDED = (
    "--config.privacy.unit=example",
    "--config.privacy.noise_from=seed",
    "--config.privacy.noise_multiplier=1.5",
)


@pytest.mark.slow
def test_resumed_run_goes_on_counting_and_has_the_same_bits(tmp_path):
    assert train(tmp_path / "whole", *SEEDED, "--config.rounds=4") == 0
    assert train(tmp_path / "parts", *SEEDED, "--config.rounds=2") == 0
    assert train(tmp_path / "parts", *SEEDED, "--config.rounds=4") == 0
    whole, parts = records(tmp_path / "whole"), records(tmp_path / "parts")
    spent = [record["epsilon"] for record in whole]
    assert spent == sorted(set(spent))
    assert [record["epsilon"] for record in parts] == spent
    assert identity(tmp_path / "parts", 4)["digest"] == identity(tmp_path / "whole", 4)["digest"]
    assert identity(tmp_path / "parts", 4)["privacy"]["epsilon"] == spent[-1]
    assert not (tmp_path / "whole" / "noise_key").exists()


@pytest.mark.slow
def test_run_whose_noise_would_change_is_not_gone_on_with(tmp_path, capsys):
    target = (*SEEDED, "--config.privacy.target_epsilon=8")
    assert train(tmp_path, *target, "--config.rounds=1") == 0
    assert records(tmp_path)[-1]["epsilon"] <= 8
    assert train(tmp_path, *target, "--config.rounds=2") == 2
    assert "the noise multiplier: the checkpoint has" in capsys.readouterr().err


def test_privacy_is_in_the_experiment_that_a_run_writes():
    fields = config.to_dict(Experiment(privacy=EXAMPLE))["privacy"]
    assert fields == dataclasses.asdict(EXAMPLE)
    assert config.from_dict({"privacy": fields}).privacy == EXAMPLE
    assert config.from_dict({}).privacy.unit == "none"
