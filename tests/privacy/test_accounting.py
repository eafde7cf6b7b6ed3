"""Epsilon against published values, closed forms, and sums and integrals that are done here."""

import math
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import toy
from scipy import integrate, optimize, special, stats

from fedjax_med.client import batching
from fedjax_med.core.random import words_of
from fedjax_med.errors import UserError
from fedjax_med.experiment import config_file, resolve
from fedjax_med.privacy import accounting, dp_mean, noise
from fedjax_med.privacy.accounting import PrivacyBudget, SamplingEvent
from fedjax_med.run import noise_key

ROOT = Path(__file__).parent.parent.parent
DELTA = 1e-5


def account(noise, rate=1.0, steps=1, delta=DELTA, accountant="pld"):
    return PrivacyBudget(noise, (SamplingEvent(rate, steps),), delta, accountant)


def renyi(order, rate, noise):
    """Of one step, at an integer order (Mironov, Talwar & Zhang, 2019, equation 6)."""
    k = np.arange(order + 1)
    with np.errstate(divide="ignore"):
        logs = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        logs += (order - k) * np.log1p(-rate) + k * np.log(rate) + (k**2 - k) / (2 * noise**2)
    return special.logsumexp(logs) / (order - 1)


# Abadi et al. (2016), section 3.2, which gives 1.26; and the README of the MNIST tutorial of
# TensorFlow Privacy, in its first versions, which gives 1.19 and 3.01 for 60,000 examples.
PUBLISHED = [
    (0.01, 4.0, 10_000, 1.26),
    (256 / 60_000, 1.3, 15 * 234, 1.19),
    (256 / 60_000, 1.1, 60 * 234, 3.01),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "published"), PUBLISHED)
def test_renyi_accountant_agrees_with_what_is_published(rate, noise, steps, published):
    orders = np.arange(2, 64)
    spent = np.array([steps * renyi(int(order), rate, noise) for order in orders])
    then = (spent + math.log(1 / DELTA) / (orders - 1)).min()
    np.testing.assert_allclose(then, published, rtol=0.01)
    # Since then the conversion to epsilon is tighter (Canonne, Kamath & Steinke, 2020).
    now = (spent + np.log1p(-1 / orders) - (math.log(DELTA) + np.log(orders)) / (orders - 1)).min()
    renyi_epsilon = account(noise, rate, steps, accountant="rdp").epsilon(1)
    np.testing.assert_allclose(renyi_epsilon, now, rtol=0.01)
    assert 0.7 * now < account(noise, rate, steps).epsilon(1) < now < then


# Rate, noise, epsilon and delta of 10,000 steps, as the tests of the Fourier accountant of Koskela,
# Jälkö & Honkela (AISTATS 2020) tell them.
FOURIER = [
    (0.01, 2.0, 1.0, 0.010224911209),
    (0.01, 2.0, 0.8, 0.022850339596),
    (0.01, 1.0, 1.0, 0.239176394736),
    (0.02, 2.0, 1.0, 0.149917329693),
]


@pytest.mark.parametrize(("rate", "noise", "epsilon", "delta"), FOURIER)
def test_privacy_loss_accountant_agrees_with_another_ones_published_values(
    rate, noise, epsilon, delta
):
    found = account(noise, rate, 10_000, delta).epsilon(1)
    np.testing.assert_allclose(found, epsilon, rtol=0.01)


def gaussian_delta(epsilon, noise):
    """Balle & Wang (2018), theorem 8, of sensitivity 1."""
    half, tilt = 1 / (2 * noise), epsilon * noise
    return stats.norm.cdf(half - tilt) - math.exp(epsilon) * stats.norm.cdf(-half - tilt)


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (0.7, 1), (5.0, 30)])
@pytest.mark.parametrize("rate", [1.0, 1 - 1e-9])
def test_gaussian_mechanisms_agree_with_the_closed_form(noise, count, rate):
    # With a rate that is not quite 1 the privacy loss distributions have to find it.
    total = noise / math.sqrt(count)
    exact = optimize.brentq(lambda epsilon: gaussian_delta(epsilon, total) - DELTA, 0.01, 50)
    np.testing.assert_allclose(account(noise, rate).epsilon(count), exact, rtol=0.002)


@pytest.mark.parametrize(("rate", "noise"), [(0.2, 1.0), (0.05, 0.8)])
def test_one_sampled_step_agrees_with_the_integral_of_its_densities(rate, noise):
    def mixture(x):
        return (1 - rate) * stats.norm.pdf(x, 0, noise) + rate * stats.norm.pdf(x, 1, noise)

    def delta(epsilon):
        def excess(x):
            return max(0.0, mixture(x) - math.exp(epsilon) * stats.norm.pdf(x, 0, noise))

        return integrate.quad(excess, -10, 15, limit=400, points=[0, 1, 2, 3, 4])[0]

    exact = optimize.brentq(lambda epsilon: delta(epsilon) - DELTA, 0.05, 20, xtol=1e-4)
    np.testing.assert_allclose(account(noise, rate).epsilon(1), exact, rtol=0.01)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_epsilon_rises_with_rounds_and_rate_and_falls_with_noise_and_delta(accountant):
    spent = [account(2.0, 0.1, 5, accountant=accountant).epsilon(r) for r in (0, 1, 3, 10)]
    assert spent[0] == 0
    assert spent == sorted(set(spent))
    assert account(2.0, 0.2, 5, accountant=accountant).epsilon(3) > spent[2]
    assert account(3.0, 0.1, 5, accountant=accountant).epsilon(3) < spent[2]
    assert account(2.0, 0.1, 5, 1e-3, accountant).epsilon(3) < spent[2]


def test_without_noise_epsilon_is_infinite_and_without_use_it_is_zero():
    assert account(0.0).epsilon(1) == math.inf
    assert account(0.0).epsilon(0) == 0
    assert PrivacyBudget(1.0, (), DELTA).epsilon(9) == 0
    assert PrivacyBudget(1.0, (), DELTA).noise_for(8.0, 9) == 0


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_noise_is_found_for_a_target(accountant):
    unsolved = account(1.0, 0.05, 4, accountant=accountant)
    for target in (0.5, 8.0):
        solved = unsolved._replace(noise_multiplier=unsolved.noise_for(target, 20))
        assert 0.99 * target <= solved.epsilon(20) <= target


def test_target_that_no_noise_reaches_is_refused():
    with pytest.raises(UserError, match=r"10000000000000 rounds at delta=1e-05, got 0.001"):
        account(1.0, accountant="rdp").noise_for(1e-3, 10**13)


def test_much_noise_costs_nothing_beyond_delta():
    assert account(1e6, accountant="rdp").epsilon(1) == 0
    assert account(1e6, 0.5).epsilon(1) == 0


def test_budget_is_used_up_and_never_exceeded():
    one = account(3.0, accountant="rdp")
    rounds = one.rounds_within(10.0, 100)
    assert one.epsilon(rounds) <= 10.0 < one.epsilon(rounds + 1)
    assert one.rounds_within(10.0, rounds - 2) == rounds - 2
    assert one.rounds_within(0.01, 100) == 0


def test_worst_client_bounds_all():
    sizes = (8, 33, 70, 64, 150, 0)
    uses = accounting.of_examples(sizes, 16, 2, 1000, 1e-16)
    several = PrivacyBudget(1.0, uses, DELTA, "rdp").epsilon(5)
    each = [
        PrivacyBudget(1.0, accounting.of_examples([size], 16, 2, 1000, 0.0), DELTA, "rdp").epsilon(
            5
        )
        for size in sizes
    ]
    assert several == max(each)
    tight = PrivacyBudget(1.0, uses, DELTA).epsilon(5)
    alone = [PrivacyBudget(1.0, (use,), DELTA).epsilon(5) for use in uses]
    np.testing.assert_allclose(tight, max(alone), rtol=1e-9)


def test_uses_follow_each_clients_own_number_of_examples():
    uses = accounting.of_examples((64, 10, 33, 48), 16, 2, 40, 1e-16)
    # 33 and 48 take three steps an epoch each; an example of the smaller one is drawn more often.
    np.testing.assert_allclose([use.rate for use in uses], [1, 16 / 33, 16 / 64], rtol=1e-5)
    assert [use.steps for use in uses] == [2, 6, 8]
    assert all(use.rate == 1 or use.rate > 16 / 64 for use in uses)  # and float32's grain
    assert {use.tail for use in uses} == {1e-16}
    assert {use.tail for use in accounting.of_examples((64, 10), 16, 2, 64, 1e-16)} == {0.0}


def test_batches_without_enough_room_take_their_share_of_delta():
    plain = account(1.0, 0.1, 10, accountant="rdp").epsilon(10)
    tail = PrivacyBudget(1.0, (SamplingEvent(0.1, 10, 1e-16),), DELTA, "rdp").epsilon(10)
    assert plain < tail < 1.01 * plain
    assert PrivacyBudget(1.0, (SamplingEvent(0.1, 10, 1e-6),), DELTA, "rdp").epsilon(10) == math.inf


def test_distance_of_the_noise_from_a_gaussians_takes_its_share_of_delta(monkeypatch):
    plain = account(1.0, accountant="rdp").epsilon(1)
    # What a distance of 2**-65 adds to delta at this epsilon is far below its share.
    assert noise.GAP * (1 + math.exp(plain)) < 1e-6 * DELTA
    monkeypatch.setattr(noise, "GAP", 1e-10)
    assert plain < account(1.0, accountant="rdp").epsilon(1) < 1.01 * plain
    monkeypatch.setattr(noise, "GAP", 1e-6)
    assert account(1.0, accountant="rdp").epsilon(1) == math.inf


@pytest.mark.parametrize("target", [16, 28])
def test_examples_have_room_for_a_large_epsilon(target):
    sizes = (1000, 5000)
    room = batching.poisson_capacity(16, max(sizes))
    uses = accounting.of_examples(sizes, 16, 1, room, batching.POISSON_TAIL)
    assert uses[0].tail > 0
    unsolved = PrivacyBudget(1.0, uses, DELTA, "rdp")
    solved = unsolved._replace(noise_multiplier=unsolved.noise_for(target, 40))
    assert 0.99 * target <= solved.epsilon(40) <= target


def test_worked_examples_are_what_the_code_gives():
    text = (ROOT / "docs" / "privacy.md").read_text()
    sizes = {"dp_fed_avg": [1] * 50, "dp_sgd": [307, 307, 307, 306, 306]}
    tables = re.findall(r"^\| after round (.*)\n.*\n(\|.*)$", text, re.M)
    accounts = {}
    for (header, values), name in zip(tables, sizes, strict=True):
        given = resolve.complete(config_file.read(str(ROOT / "configs" / f"lesions.py:{name}")))
        accounts[name] = account = toy.planned(given, sizes=sizes[name]).privacy.account
        first, *told = [cell.strip() for cell in values.strip("|").split("|")]
        assert first.split()[-1] == f"{account.noise_multiplier:.4g}"
        spent = [account.epsilon(int(cell)) for cell in header.strip("| ").split("|")]
        assert told == [f"{epsilon:.2f}" for epsilon in spent]
    account = accounts["dp_fed_avg"]
    whole = account._replace(uses=(SamplingEvent(),))
    updates, _ = dp_mean.shares_of_noise(account.noise_multiplier, 0.5, 0.1)
    for sentence in (
        f"the same noise is told as ε = {account._replace(accountant='rdp').epsilon(20):.2f}",
        f"takes the noise multiplier {whole.noise_for(8.0, 20):.2f}",
        f"who took part, ε is {whole.epsilon(20):.1f}",
        f"= {updates:.2f} · C / 25",
    ):
        assert sentence in text


def test_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    text = noise_key.secret(tmp_path, started=False)
    assert len(bytes.fromhex(text)) == 32
    assert stat.S_IMODE((tmp_path / noise_key.NAME).stat().st_mode) == 0o600
    assert noise_key.secret(tmp_path, started=True) == text
    assert noise_key.secret(tmp_path, started=False) == text
    (tmp_path / "other").mkdir()
    assert noise_key.secret(tmp_path / "other", started=False) != text


def test_missing_or_damaged_secret_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"noise_key.* is missing"):
        noise_key.secret(tmp_path, started=True)
    assert not (tmp_path / noise_key.NAME).exists()
    (tmp_path / noise_key.NAME).write_text("12ab")
    with pytest.raises(UserError, match="damaged: expected 64"):
        noise_key.secret(tmp_path, started=False)


def test_words_of_a_secret_use_all_64_bits_that_a_key_has():
    words = np.array([words_of(str(number)) for number in range(500)], np.uint64)
    assert words.max() < 2**32
    bits = (words[:, :, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.12
    assert words_of("a") == words_of("a")
