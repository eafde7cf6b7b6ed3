"""What an experiment promises of privacy, by which parts, and what it refuses for the promise."""

import hashlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.client.local_training import POISSON_TAIL, LocalTraining, poisson_room
from fedjax_med.core.aggregation import MessageTransform, Reducer
from fedjax_med.core.faults import Conditions
from fedjax_med.core.round import FedAlgorithm
from fedjax_med.core.types import Key
from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec, alone
from fedjax_med.privacy import accounting, dp_mean
from fedjax_med.privacy.dp_sgd import private_grad_fn

# Where a client's examples are used by its steps alone, as many as are accounted.
_STEPS_ALONE = ("fed_avg", "fed_bn", "fed_dyn", "fed_nova", "fed_per", "fed_prox", "scaffold")
# Where a client's message does not depend on whether the client took part before.
_FORGETFUL = ("fed_avg", "fed_prox")


class Means(NamedTuple):
    """What the parts need beside the experiment."""

    noise_multiplier: float
    secret: str = ""  # of this run alone; empty: randomness is from the experiment's seed
    run: str = ""  # the digest that the secret was derived for


class Promise(NamedTuple):
    """What a run spends, and how long it may."""

    unit: str
    account: accounting.Account
    rounds: int  # that the budget allows, of those that are asked for
    budget: float = 0.0  # 0: none
    ended: bool = False  # whether the budget ends the run before the rounds that are asked for
    units: int = 0  # how many there are

    def spent(self, done: int) -> dict[str, Any]:
        """What `done` rounds have spent, for JSON: an infinite epsilon is None."""
        epsilon = self.account.epsilon(done)
        return {
            "unit": self.unit,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": self.account.delta,
            "noise_multiplier": self.account.noise_multiplier,
        }


def check_spent(promise: Promise | None, done: int) -> None:
    """Refuse a budget that the rounds that are done have exceeded.

    Raises:
        UserError: The message says what they have spent.
    """
    if promise and promise.budget and done > promise.rounds:
        raise UserError(
            f"{done} rounds have spent epsilon {promise.account.epsilon(done):.3g} already: "
            f"expected --config.privacy.budget of at least that, got {promise.budget}."
        )


def tag(promise: Promise | None, done: int, means: Means | None = None) -> dict[str, Any]:
    """What a checkpoint of the round `done` says of privacy; nothing where nothing is promised."""
    noise = {"noise": means.run} if means and means.run else {}
    return noise | ({"privacy": promise.spent(done)} if promise else {})


def check(experiment: Experiment) -> None:
    """Refuse what would void the promise, as far as names and numbers tell.

    Raises:
        UserError: The message says what is refused, and why.
    """
    asked = experiment.privacy
    check_name(asked.unit, ("none", "client", "example"), "the units of privacy")
    check_name(asked.accountant, accounting.ACCOUNTANTS, "the accountants")
    check_name(asked.noise_from, ("secret", "seed"), "the sources of noise")
    if asked.quantile and asked.unit == "example":
        _refuse(
            "--config.privacy.quantile", "only --config.privacy.unit=client has an adaptive clip"
        )
    if experiment.setting != "federated":
        experiment = alone(experiment)  # where nothing is sent, nothing is promised to clients
    if experiment.privacy.unit == "none":
        return
    if experiment.loss.class_balance or experiment.loss.logit_adjustment:
        name = "class_balance" if experiment.loss.class_balance else "logit_adjustment"
        _refuse(f"--config.loss.{name}", "the class counts that it uses are not protected")
    if asked.unit == "client":
        _check_client(experiment)
    else:
        _check_example(experiment)


def _refuse(what: str, why: str) -> None:
    raise UserError(f"{what} does not go with differential privacy: {why}.")


def _check_client(experiment: Experiment) -> None:
    if experiment.reducer.name != "mean":
        _refuse(
            f"--config.reducer.name={experiment.reducer.name}",
            "one client may move its result by more than a mean's share (expected mean)",
        )
    if experiment.keep_updates:
        _refuse("--config.keep_updates", "the clients' messages would lie unprotected in WORKDIR")


def _check_example(experiment: Experiment) -> None:
    name = experiment.algorithm.name
    if name not in _STEPS_ALONE:
        _refuse(
            f"algorithm {name}",
            "it uses examples otherwise than by the steps that are accounted (such as "
            f"{', '.join(_STEPS_ALONE)} do)",
        )
    for field in ("mixup", "cutmix"):
        if getattr(experiment.augment, field):
            _refuse(f"--config.augment.{field}", "it mixes examples, which are clipped one by one")
    if not experiment.client.batch_size:
        _refuse(
            "--config.client.batch_size=0", "it needs the size that a batch is expected to have"
        )
    if experiment.keep_updates:
        _refuse(
            "--config.keep_updates", "contributions, which they are for, are not told of such a run"
        )


def check_parts(
    experiment: Experiment,
    algorithm: FedAlgorithm,
    transforms: Iterable[MessageTransform],
    reducer: Reducer,
    conditions: Conditions,
) -> None:
    """Refuse what would void the promise, as far as only the parts themselves tell.

    Raises:
        UserError: The message says what is refused, and why.
    """
    unit = experiment.privacy.unit
    if unit == "example" and reducer.informed:
        _refuse(f"reducer {experiment.reducer.name}", "the clients' losses are not protected")
    if unit != "client":
        return
    name = experiment.algorithm.name
    if algorithm.receive is not None:
        _refuse(f"algorithm {name}", "its server reads what single clients send")
    if algorithm.groups and experiment.privacy.quantile:
        _refuse(
            f"--config.privacy.quantile with algorithm {name}",
            "whether a group's clip moves would tell whether it has clients",
        )
    for spec, transform in zip(experiment.transforms, transforms, strict=True):
        if transform.across:
            _refuse(f"transform {spec.name}", "it changes a message by what other clients send")
    for spec, attack in zip(experiment.attacks, conditions.attacks, strict=True):
        if attack.messages is not None:
            _refuse(f"attack {spec.name}", "what hostile clients send may depend on the others")


def reducer(experiment: Experiment, means: Means | None) -> Reducer:
    """The experiment's reducer, or the private mean."""
    asked = experiment.privacy
    if asked.unit != "client":
        return components.build("reducers", experiment.reducer)  # type: ignore[no-any-return]
    options: dict[str, float] = {
        "clip_norm": asked.clip_norm,
        "noise_multiplier": means.noise_multiplier if means else asked.noise_multiplier,
        "quantile": asked.quantile,
        "rate": experiment.turnout.rate,
    }
    return dp_mean.build(**options)


def training(experiment: Experiment, how: LocalTraining, means: Means | None) -> LocalTraining:
    """`how`, or by private gradients of Poisson batches."""
    asked = experiment.privacy
    if asked.unit != "example":
        return how
    noise = means.noise_multiplier if means else asked.noise_multiplier
    grad_fn = private_grad_fn(how.grad_fn, asked.clip_norm, noise, how.batch_size)
    return how._replace(grad_fn=grad_fn, poisson=True)


def words_of(text: str) -> tuple[int, int]:
    """The two 32-bit words of a threefry key that follow from `text`.

    `jax.random.key` of a number would keep 32 bits of it only, few enough to try them all.
    """
    digest = hashlib.sha256(b"fedjax_med rounds " + text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


def rounds_key(means: Means | None, otherwise: Key) -> Key:
    """The key of all rounds: from the run's secret, if it has one."""
    if means is None or not means.secret:
        return otherwise
    words = jnp.array(words_of(means.secret), jnp.uint32)
    key: Key = jax.random.wrap_key_data(words, impl="threefry2x32")
    return key


def _remembers(spec: Spec) -> bool:
    """Whether the transform has a state: from it a message may tell of the rounds before."""
    transform: MessageTransform = components.build("transforms", spec)
    return bool(jax.tree.leaves(jax.eval_shape(lambda: transform.init(jnp.zeros(2), 1))))


def _uses(experiment: Experiment, sizes: list[int]) -> tuple[accounting.Use, ...]:
    if experiment.privacy.unit == "client":
        options = experiment.algorithm.options
        forgetful = (
            experiment.algorithm.name in _FORGETFUL
            and not options.get("keep_optimizer", False)
            and not any(map(_remembers, experiment.transforms))
        )
        return (accounting.of_client(experiment.turnout.rate if forgetful else 1.0),)
    client = experiment.client
    room = poisson_room(client.batch_size, max(sizes, default=0))
    return accounting.of_examples(sizes, client.batch_size, client.epochs, room, POISSON_TAIL)


def promise(
    experiment: Experiment, sizes: Iterable[int], noise_multiplier: float | None = None
) -> Promise | None:
    """What `experiment` promises; None where it promises nothing.

    Args:
        experiment: completed and checked.
        sizes: the training examples of each client.
        noise_multiplier: that a run had, where it is known already.

    Raises:
        UserError: No noise reaches the epsilon, or the budget is less than one round costs.
    """
    sizes = list(map(int, sizes))
    if experiment.setting != "federated":
        experiment = alone(experiment)
    asked = experiment.privacy
    if asked.unit == "none":
        return None
    noise = asked.noise_multiplier if noise_multiplier is None else noise_multiplier
    uses = _uses(experiment, sizes)
    account = accounting.Account(noise, uses, asked.delta, asked.accountant)
    if asked.target_epsilon and noise_multiplier is None:
        solved = account.noise_for(asked.target_epsilon, experiment.rounds)
        account = account._replace(noise_multiplier=solved)
    rounds = experiment.rounds
    if asked.budget:
        rounds = account.rounds_within(asked.budget, experiment.rounds)
        if not rounds:
            raise UserError(_too_little(account, asked.budget))
    ended, units = rounds < experiment.rounds, len(sizes) if asked.unit == "client" else sum(sizes)
    return Promise(asked.unit, account, rounds, asked.budget, ended, units)


def _too_little(account: accounting.Account, budget: float) -> str:
    first, noise = account.epsilon(1), account.noise_multiplier
    if math.isinf(first):
        return (
            f"no budget holds with --config.privacy.noise_multiplier={noise:g}, which bounds no "
            "epsilon: raise it, or give --config.privacy.target_epsilon."
        )
    wanted = f"expected --config.privacy.budget of at least {first:.3g}"
    return f"{wanted}, what the first round costs, got {budget}: raise it, or the noise."
