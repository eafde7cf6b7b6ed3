"""The README's example of an algorithm in one file is run, and its commands exist."""

import re
import sys
import types
from pathlib import Path

import jax
import optax
import toy

from fedjax_med import federated, shelves
from fedjax_med.algorithms import fed_avg
from fedjax_med.local import LocalTraining
from fedjax_med.reducers import mean

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def fed_prox():
    module = types.ModuleType("fed_prox")
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), module.__dict__)
    return module


def two_rounds(build, **options):
    algorithm = build(LocalTraining(toy.grad_fn(), optax.sgd(0.1), 3, 4), optax.sgd(1.0), **options)
    data, reducer = toy.federation((6, 9)), mean.build()
    state = federated.init(algorithm, reducer, toy.params(), data)
    for _ in range(2):
        state, _ = federated.run_round(algorithm, reducer, state, data, jax.random.key(0))
    return state.server.params


def test_example_algorithm_with_mu_zero_is_fed_avg():
    toy.assert_same_bits(two_rounds(fed_prox().build, mu=0.0), two_rounds(fed_avg.build))


def test_example_algorithm_holds_the_clients_near_the_global_model():
    free, held = two_rounds(fed_prox().build, mu=0.0), two_rounds(fed_prox().build, mu=3.0)

    def moved(params):
        return float(optax.tree.norm(jax.tree.map(lambda a, b: a - b, params, toy.params())))

    assert moved(held) < 0.8 * moved(free)


def test_example_algorithm_is_found_by_its_file_name(tmp_path, monkeypatch):
    module = fed_prox()
    monkeypatch.setitem(sys.modules, "fedjax_med.algorithms.fed_prox", module)
    package = sys.modules["fedjax_med.algorithms"]
    (tmp_path / "fed_prox.py").write_text("")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "fed_prox" in shelves.names("algorithms")
    assert shelves.default_options("algorithms", "fed_prox") == {"mu": 0.01}


def test_readme_names_everything_that_there_is():
    for shelf in (
        "algorithms",
        "cohorts",
        "datasets",
        "models",
        "partitions",
        "reducers",
        "transforms",
    ):
        for name in shelves.names(shelf):
            assert f"`{name}`" in README, f"the README does not name {shelf}/{name}"


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"(?:configs|scripts|docs)/\w+\.\w+", README):
        assert (ROOT / name).exists(), name


def test_readme_has_no_open_places():
    assert "@@" not in README
