"""The code of docs/extending.md is run, and does what the page says."""

import re
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_contracts as contracts
import toy

import fedjax_med as fm
from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.plan import check_before_data
from fedjax_med.experiment.resolve import complete, settle

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
OWN = dict(re.findall(r"```python title=\"my_package/(\w+)\.py\"\n(.*?)```", PAGE, re.S))
POINTS = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.S)[1])["project"]["entry-points"]


def module(name):
    """The code block that the page tells to save as `name`.py."""
    made = types.ModuleType(name)
    exec(OWN[name], made.__dict__)
    return made


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The files of the page, in a package in the current folder, as the page says."""
    (tmp_path / "my_package").mkdir()
    for name, code in OWN.items():
        (tmp_path / "my_package" / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nowhere")  # so that what is appended to sys.path goes again
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def installed(package, monkeypatch):
    """The package, installed with the entry points of the page."""

    def entry_points(group):
        return [metadata.EntryPoint(*point, group) for point in POINTS.get(group, {}).items()]

    components._installed.cache_clear()
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    yield
    components._installed.cache_clear()


def one_round(build, **options):
    algorithm = build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 3, 4), optax.sgd(1.0), **options)
    data, aggregator = toy.federation((6, 9)), mean.build(weighting="uniform")
    process = Process(algorithm, aggregator, keep_updates=True)
    state, metrics = process.round(process.init(toy.params(), data), data, jax.random.key(0))
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


@pytest.mark.parametrize(
    "test",
    [
        contracts.test_aggregator_gives_one_message_and_does_not_mind_the_order,
        contracts.test_aggregator_without_a_client_that_counts_gives_zero,
        contracts.test_aggregator_leaves_out_a_client_of_weight_zero_whatever_it_sent,
    ],
)
def test_majority_guarantees_what_the_page_says(test):
    test(module("majority").build())


def test_majority_does_not_return_equal_messages_as_the_page_says():
    with pytest.raises(AssertionError):
        contracts.test_aggregator_of_equal_messages_is_that_message(module("majority").build())


@pytest.mark.parametrize(
    "test",
    [
        contracts.test_algorithm_learns_and_gives_the_same_under_every_map,
        contracts.test_algorithm_ignores_padding_and_clients_without_examples,
        contracts.test_algorithm_client_update_is_a_pure_function,
    ],
)
def test_fed_exp_meets_the_contract_of_algorithms(test, installed):
    test(Spec("fed_exp"))


def test_privacy_refuses_an_algorithm_without_traits(installed):
    given = Experiment(algorithm=Spec("fed_exp"))
    given.privacy.unit = "example"
    with pytest.raises(UserError, match="algorithm fed_exp does not go with"):
        check_before_data(settle(complete(given)))


def train(tmp_path, algorithm, aggregator):
    return cli.main(
        [
            "train",
            f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}",
            "--config.rounds=2",
            f"--config.algorithm.name={algorithm}",
            "--config.algorithm.options.epsilon=0.01",
            f"--config.aggregator.name={aggregator}",
            f"--workdir={tmp_path / 'run'}",
            f"--cache_dir={tmp_path / 'cache'}",
        ]
    )


@pytest.mark.slow
def test_both_train_together_by_the_names_of_their_functions(package, tmp_path, capsys):
    code = train(tmp_path, "my_package.fed_exp:build", "my_package.majority:build")
    assert code == 0, capsys.readouterr().err
    assert "round 2/2" in capsys.readouterr().out


def test_both_are_found_by_their_entry_points_and_train_together(installed, tmp_path, capsys):
    assert components.default_options("algorithms", "fed_exp") == {"epsilon": 0.001}
    assert components.default_options("aggregators", "majority") == {"step": 0.01}
    assert train(tmp_path, "fed_exp", "majority") == 0
    assert "round 2/2" in capsys.readouterr().out


def test_a_wrong_name_lists_what_there_is(installed, tmp_path, capsys):
    assert train(tmp_path, "fedexp", "mean") == 2
    said = capsys.readouterr().err
    assert "Did you mean 'fed_exp'?" in said
    for name in ("fed_avg", "scaffold", "cfl"):
        assert name in said


def test_the_page_uses_public_names_only():
    used = set(re.findall(r"\bfedjax_med\.(\w+)", "".join(OWN.values())))
    assert not used, "import fedjax_med as fm is enough"
    assert set(re.findall(r"\bfm\.(\w+)", PAGE)) <= set(fm.__all__)
