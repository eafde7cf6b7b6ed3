"""The code of docs/extending.md is run, and does what the page says."""

import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation
from fedjax_med.core.round import init, run_round
from fedjax_med.errors import UserError
from fedjax_med.experiment import components

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = {"fed_exp": "algorithms", "majority": "aggregators"}


def module(name):
    """The code block that the page tells to save as `name`.py."""
    code = re.search(rf"`fedjax_med/{FILES[name]}/{name}\.py`.*?```python\n(.*?)```", PAGE, re.S)
    made = types.ModuleType(name)
    exec(code.group(1), made.__dict__)
    return made


@pytest.fixture
def shelved(tmp_path, monkeypatch):
    """Both files on their shelves."""
    for name, shelf in FILES.items():
        monkeypatch.setitem(sys.modules, f"fedjax_med.{shelf}.{name}", module(name))
        package = sys.modules[f"fedjax_med.{shelf}"]
        (tmp_path / shelf).mkdir()
        (tmp_path / shelf / f"{name}.py").write_text("")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / shelf)])


def one_round(build, **options):
    algorithm = build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 3, 4), optax.sgd(1.0), **options)
    data, aggregator = toy.federation((6, 9)), mean.build(weighting="uniform")
    state = init(algorithm, aggregator, toy.params(), data)
    state, metrics = run_round(
        algorithm, aggregator, state, data, jax.random.key(0), with_messages=True
    )
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), toy.params(), state.server.params)
    return moved, metrics["message"]


def test_fed_exp_with_a_large_epsilon_is_fed_avg():
    build = module("fed_exp").build
    toy.assert_close(one_round(build, epsilon=1e6)[0], one_round(fed_avg.build)[0])


def test_fed_exp_steps_as_far_as_its_paper_says():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1))
    algorithm = module("fed_exp").build(training, optax.sgd(1.0), epsilon=0.5)
    server, _ = algorithm.init({"w": jnp.array([1.0, 2.0])})
    for square, factor in ((0.5, 1.0), (9.0, 3.0)):  # the mean's squared length is 1
        delta = {"w": jnp.array([0.6, -0.8])}
        after = algorithm.server_update(server, (delta, jnp.float32(square)))
        np.testing.assert_allclose(
            after.params["w"], [1 - factor * 0.6, 2 + factor * 0.8], rtol=1e-6
        )


def test_fed_exp_sends_the_squared_lengths_beside_the_differences():
    _, (deltas, squares) = one_round(module("fed_exp").build)
    lengths = sum((np.asarray(leaf).reshape(2, -1) ** 2).sum(axis=1) for leaf in deltas.values())
    np.testing.assert_allclose(squares, lengths, rtol=1e-5)


def test_majority_is_the_step_that_most_clients_want():
    messages = {"w": jnp.array([[1.0, -3.0], [9.0, 0.1], [-2.0, 0.1], [jnp.nan, -5.0]])}
    client_info = aggregation.all_clients(jnp.array([1.0, 7.0, 3.0, 0.0]))
    aggregator = module("majority").build(step=0.5)
    reduced, _ = aggregator.update(messages, client_info, (), jax.random.key(0))
    np.testing.assert_array_equal(reduced["w"], [0.5, 0.5])


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match="step > 0"):
        module("majority").build(step=0.0)
    with pytest.raises(UserError, match="epsilon >= 0"):
        module("fed_exp").build(None, None, epsilon=-1.0)


def test_both_are_found_by_their_files_and_train_together(shelved, tmp_path, capsys):
    assert components.default_options("algorithms", "fed_exp") == {"epsilon": 0.001}
    assert components.default_options("aggregators", "majority") == {"step": 0.01}
    code = cli.main(
        [
            "train",
            f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}",
            "--config.rounds=2",
            "--config.algorithm.name=fed_exp",
            "--config.algorithm.options.epsilon=0.01",
            "--config.aggregator.name=majority",
            f"--workdir={tmp_path / 'run'}",
            f"--cache_dir={tmp_path / 'cache'}",
        ]
    )
    assert code == 0
    assert "round 2/2" in capsys.readouterr().out


def test_a_wrong_name_lists_what_there_is(shelved, tmp_path, capsys):
    code = cli.main(
        [
            "train",
            f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}",
            "--config.algorithm.name=fedexp",
            f"--workdir={tmp_path / 'run'}",
        ]
    )
    assert code == 2
    said = capsys.readouterr().err
    assert "Did you mean 'fed_exp'?" in said
    for name in ("fed_avg", "scaffold", "cfl"):
        assert name in said
