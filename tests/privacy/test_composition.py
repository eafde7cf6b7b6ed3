"""Parts put together by hand that differential privacy does not account for are refused."""

import jax
import numpy as np
import optax
import pytest
import toy

import fedjax_med as fm
from fedjax_med.privacy import accounting, composition, dp_mean

DATA = toy.federation((3, 3))
BUDGET = accounting.PrivacyBudget(1.0, (accounting.of_client(0.5),), delta=1e-3)
HALF = fm.Faults(fm.Participation(participation_rate=0.5, skip_invalid=True))
ALL = accounting.PrivacyBudget(1.0, (accounting.of_client(1.0),), delta=1e-3)
TRAINER = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=2)


def process(*transforms, algorithm="fed_avg", aggregator=None, faults=HALF):
    build = getattr(fm.algorithms, algorithm).build
    aggregator = aggregator or dp_mean.build(noise_multiplier=1.0, rate=0.5)
    parts = fm.chain(*transforms, aggregator=aggregator)
    return fm.Process(build(TRAINER, optax.sgd(1.0)), parts, faults=faults)


def check(made, budget):
    composition.check_clients(made, made.init(toy.params(), DATA), budget)


@pytest.mark.parametrize("budget", [BUDGET, ALL, BUDGET._replace(noise_multiplier=0.5)])
def test_what_costs_no_more_than_is_counted_passes(budget):
    check(process(fm.transforms.clip.build(norm=1.0)), budget)


@pytest.mark.parametrize(
    ("made", "budget", "said"),
    [
        (process(aggregator=fm.aggregators.mean.build()), BUDGET, "aggregator that adds noise"),
        (process(), BUDGET._replace(noise_multiplier=1.1), "noise_multiplier=1.1, as counted; got"),
        (process(), BUDGET._replace(uses=(accounting.of_client(0.4),)), r"of_client\(rate=0.5\)"),
        (process(), BUDGET._replace(uses=()), "counts the rate 0"),
        (process(fm.transforms.top_k.build(share=0.5)), BUDGET, "clients keep a state"),
        (process(algorithm="ditto"), BUDGET, "clients keep a state"),
        (process(algorithm="scaffold"), ALL, "reads no single updates"),
        (process(fm.transforms.adaptive_clip.build()), ALL, "by itself"),
        (
            process(faults=HALF._replace(attacks=(fm.attacks.inner_product.build(3),))),
            ALL,
            "no attack on messages",
        ),
    ],
)
def test_what_costs_more_or_voids_the_guarantee_is_refused_in_one_line(made, budget, said):
    with pytest.raises(fm.UserError, match=said) as refused:
        check(made, budget)
    assert "\n" not in str(refused.value)


def test_a_simulation_asks_its_budget_for_a_new_state_and_for_an_earlier_one():
    clients = fm.data.from_arrays(np.zeros((6, *toy.IMAGE), np.uint8), [0] * 6, [0, 1] * 3)
    made = process()
    state = fm.Simulation(made).init(toy.params(), clients)
    low = BUDGET._replace(uses=(accounting.of_client(0.4),))
    simulation = fm.Simulation(made, privacy=low)
    with pytest.raises(fm.UserError, match="the budget does not hold"):
        simulation.init(toy.params(), clients)
    with pytest.raises(fm.UserError, match="the budget does not hold"):
        next(simulation.rounds(state, clients, jax.random.key(0), num_rounds=1))


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_private_aggregator_of_another_rate_is_refused(rate):
    wrong = process(fm.transforms.clip.build(norm=1.0), faults=fm.Faults(fm.Participation(rate)))
    with pytest.raises(fm.UserError, match=rf"participation_rate={rate:g}\), got rate=0.5"):
        wrong.init(toy.params(), DATA)
    state = process(fm.transforms.clip.build(norm=1.0)).init(toy.params(), DATA)
    with pytest.raises(fm.UserError, match="give both the same"):
        jax.eval_shape(wrong.round, state, DATA, jax.random.key(0))


def test_a_cohort_is_no_participation():
    wrong = process(faults=fm.Faults())._replace(cohort=fm.cohorts.uniform.build(2, size=1))
    with pytest.raises(fm.UserError, match="a cohort does not count"):
        wrong.init(toy.params(), DATA)


@pytest.mark.parametrize("algorithm", ["fed_avg", "fed_prox", "fed_dyn", "apfl", "ditto"])
@pytest.mark.parametrize("wrong", [{"poisson": False}, {"batch_size": 3}, {"batch_size": 0}])
def test_private_gradients_need_poisson_batches_of_their_size(algorithm, wrong):
    private = fm.privacy.private_grad_fn(toy.grad_fn(), 1.0, 1.0, expected_batch=2)
    right = fm.LocalTrainer(private, optax.sgd(0.1), batch_size=2, poisson=True)

    def shapes(trainer):
        parts = getattr(fm.algorithms, algorithm).build(trainer, optax.sgd(1.0))
        made = fm.Process(parts, fm.aggregators.mean.build())
        return jax.eval_shape(made.init, toy.params(), DATA)

    shapes(right)
    with pytest.raises(fm.UserError, match=r"LocalTrainer\(batch_size=2, poisson=True\), got"):
        shapes(right._replace(**wrong))
