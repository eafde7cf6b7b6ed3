"""Contributions of the clients to the global model, from their updates, without retraining.

The value of a coalition is that of the global model that the server builds from its members'
updates alone, by the run's own transforms, aggregator and server optimizer; other clients get the
weight 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med.contribution import shapley
from fedjax_med.contribution.replay import TOGETHER, Programs, Run, first, portions, sent_of
from fedjax_med.contribution.shapley import Coalitions, Floats
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.evaluation import metrics
from fedjax_med.evaluation.predict import predict
from fedjax_med.evaluation.tables import short
from fedjax_med.experiment.config import Experiment

METRICS: dict[str, Callable[..., float]] = {  # higher is better
    "balanced_accuracy": metrics.balanced_accuracy,
    "loss": lambda probabilities, labels: -metrics.log_loss(probabilities, labels),
}
UNITS = {"balanced_accuracy": "Balanced accuracy", "loss": "Negative loss"}


class Measure(NamedTuple):
    """The metric of the contributions, and how exactly they are computed."""

    metric: str = "loss"  # a key of METRICS
    permutations: int = 0  # 0: exact, or `shapley.PERMUTATIONS` beyond `shapley.EXACT` clients
    truncation: float = 0.0
    seed: int = 0


class Contribution(NamedTuple):
    """The contributions of the C clients."""

    shapley: Floats  # [C]
    error: Floats  # [C], standard errors of the Shapley values; 0 where exact
    leave_one_out: Floats  # [C]
    by_round: Floats  # [T, C], Shapley values of each round; [0, C] if not by round
    start: float  # the value of the first model
    end: float  # the value of the last model
    server: float  # change due to the server alone, such as its optimizer's momentum


_PRIVATE = (
    "the run is differentially private: contributions are computed from each client's own updates, "
    "and would reveal what the noise hides."
)


def check(experiment: Experiment) -> None:
    """Refuse a run that has not kept its updates, or whose updates are private.

    Raises:
        UserError: The run is not federated, is private, or kept no updates.
    """
    if experiment.setting != "federated":
        raise UserError(f"the run's setting is {experiment.setting}: nobody sends updates there.")
    if experiment.privacy.unit != "none":
        raise UserError(_PRIVATE)
    if not experiment.keep_updates:
        raise UserError(
            "the run has not kept its updates: train with --config.keep_updates=True, into "
            "another --workdir."
        )


def check_process(process: Process, name: str) -> None:
    """Refuse a process whose rounds do not build one global model from the updates alone.

    Args:
        process: of the run.
        name: of its algorithm.

    Raises:
        UserError: It has personal or cluster models, uses more than the updates, or is private.
    """
    algorithm = process.algorithm
    if algorithm.personal_params is not None or algorithm.num_clusters:
        raise UserError(f"{name} has no one global model that all clients contribute to.")
    if algorithm.process_updates is not None:
        raise UserError(
            f"the server of {name} uses more than the aggregated updates, so that its rounds "
            "cannot be replayed without a client: train with another --config.algorithm.name."
        )
    if process.aggregator.is_private:
        raise UserError(_PRIVATE)


def _scores(run: Run, measure: Measure, predicted: Floats) -> Floats:
    """Compute the values [M] of models from their predictions [M, V, K]."""
    # Predictions of a diverged model count as uniform.
    finite = np.isfinite(predicted).all(axis=-1, keepdims=True)
    sound = np.where(finite, predicted, 1 / predicted.shape[-1])
    labels = run.validation.label.astype(np.int64)
    return np.array([METRICS[measure.metric](one, labels) for one in sound], np.float64)


def _num_clients(run: Run) -> int:
    return len(run.validation.sizes)


def multi_round(run: Run, measure: Measure) -> Contribution:
    """Compute the contributions to each round, summed over the rounds.

    In each round, the value of a coalition is that of the model that the server builds from the
    round's global model with the members' updates of this round. Song, Tong & Wei, IEEE Big Data
    2019, "Profit allocation for federated learning" (there "MR"); Wang et al., 2020, "A principled
    approach to data valuation for federated learning" (federated Shapley value).

    Args:
        run: with its updates.
        measure: the metric, and how exactly.
    """
    programs, state, clients = Programs(run), first(run), _num_clients(run)
    before = start = float(_scores(run, measure, _of_start(run))[0])
    by_round, alone = np.zeros((run.rounds, clients)), np.zeros(clients)
    variance, server = np.zeros(clients), 0.0
    for number in range(1, run.rounds + 1):
        updates = run.load(number)
        sent, counting = sent_of(updates), np.flatnonzero(updates.weight > 0)

        def value(
            members: Coalitions,
            state: FederatedState = state,
            sent: Any = sent,
            some: Any = counting,
        ) -> Floats:
            wide = np.zeros((len(members), len(sent[1].num_examples)), np.bool_)
            wide[:, some] = members
            return np.concatenate(
                [
                    _scores(run, measure, programs.after_round(state, sent, *portion))
                    for portion in portions(wide)
                ]
            )

        game, players = shapley.cached(value), len(counting)
        nobody, everybody = game(np.repeat([[False], [True]], players, axis=1))
        shares = _shapley(game, players, measure, number)
        client = updates.client[counting]
        by_round[number - 1, client] = shares.value
        variance[client] += shares.error**2
        alone[client] += shapley.leave_one_out(game, players)
        server += nobody - before
        before = float(everybody)
        state = programs.serve(state, sent, jnp.ones(updates.weight.shape, jnp.bool_))
    total = by_round.sum(axis=0)
    return Contribution(total, np.sqrt(variance), alone, by_round, start, before, float(server))


def one_round(run: Run, measure: Measure) -> Contribution:
    """Compute the contributions to the last model.

    The value of a coalition is that of the model that the server builds, from the first model on,
    from its members' updates in all rounds, though these were trained from the models of all
    clients ("OR" of Song, Tong & Wei, IEEE Big Data 2019).

    Args:
        run: with its updates.
        measure: the metric, and how exactly.
    """
    programs, clients = Programs(run), _num_clients(run)
    counted = np.zeros(clients, np.bool_)
    for number in range(1, run.rounds + 1):
        updates = run.load(number)
        counted[updates.client[updates.weight > 0]] = True
    who = np.flatnonzero(counted)

    def value(members: Coalitions) -> Floats:
        wide = np.zeros((len(members), clients), np.bool_)
        wide[:, who] = members
        return np.concatenate([_trajectories(run, measure, programs, *p) for p in portions(wide)])

    game, players = shapley.cached(value), len(who)
    nobody, everybody = game(np.repeat([[False], [True]], players, axis=1))
    shares = _shapley(game, players, measure, 0)
    values, errors, alone = np.zeros((3, clients))
    values[who], errors[who] = shares
    alone[who] = shapley.leave_one_out(game, players)
    start = float(_scores(run, measure, _of_start(run))[0])
    none = np.zeros((0, clients))
    server = float(nobody) - start
    return Contribution(values, errors, alone, none, start, float(everybody), server)


METHODS = {"multi_round": multi_round, "one_round": one_round}


def _shapley(game: shapley.Value, players: int, measure: Measure, number: int) -> shapley.Shares:
    seed = (measure.seed, number)
    return shapley.shapley(game, players, measure.permutations, seed, measure.truncation)


def _of_start(run: Run) -> Floats:
    params = run.start.server.params
    return predict(run.model, params, run.validation.image)[None].astype(np.float64)


def _trajectories(
    run: Run, measure: Measure, programs: Programs, members: Coalitions, count: int
) -> Floats:
    """Compute the values of the first `count` coalitions [TOGETHER, C], each over all rounds."""
    states = jax.tree.map(
        lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], TOGETHER, axis=0), first(run)
    )
    for number in range(1, run.rounds + 1):
        updates = run.load(number)
        states = programs.serve_each(states, sent_of(updates), members[:, updates.client], count)
    return _scores(run, measure, programs.of_states(states, count))


def to_json(found: Contribution, examples: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Build the clients' entries of ``contribution.json``.

    Args:
        found: the contributions.
        examples: C, the number of training examples of each client.
        names: C, of the clients; () if they have none.
    """
    total = float(found.shapley.sum())
    hospitals = [
        {
            "client": client,
            "name": names[client] if names else f"client {client}",
            "examples": int(number),
            "leave_one_out": float(found.leave_one_out[client]),
            "shapley": float(found.shapley[client]),
            "standard_error": float(found.error[client]),
            "share": float(found.shapley[client]) / total if total > 0 else None,
        }
        for client, number in enumerate(examples)
    ]
    value = {"start": found.start, "end": found.end, "by_the_server": found.server}
    return {"value": value, "hospitals": hospitals, "by_round": found.by_round.tolist()}


def table(result: dict[str, Any]) -> str:
    """Format `result` as a table for people.

    Args:
        result: the content of ``contribution.json``.
    """
    lines = [
        f"{'hospital':<30}{'examples':>9}{'leave-one-out':>15}{'Shapley value':>21}{'share':>9}"
    ]
    lines.append("-" * len(lines[0]))
    for one in result["hospitals"]:
        share = "-" if one["share"] is None else f"{one['share']:.1%}"
        value = f"{one['shapley']:+.4f}"
        value += f" ± {one['standard_error']:.4f}" if one["standard_error"] else ""
        lines.append(
            f"{short(one['name'], 29):<30}{one['examples']:>9}{one['leave_one_out']:>+15.4f}"
            f"{value:>21}{share:>9}"
        )
    value, of = result["value"], UNITS[result["metric"]]
    lines += ["", f"{of}: {value['start']:.4f} at the start, {value['end']:.4f} after round "]
    lines[-1] += f"{result['round']} of {result['rounds']}."
    if abs(value["by_the_server"]) > 5e-5:
        lines.append(
            f"Of the change {value['by_the_server']:+.4f} came of the server by itself (the "
            "momentum of its optimizer, say), and is nobody's."
        )
    return "\n".join(lines)
