"""Components from elsewhere: ``MODULE:FUNCTION`` and entry points."""

import json
import sys
import textwrap
from importlib import metadata

import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.plan import check_before_data
from fedjax_med.experiment.resolve import complete, settle
from fedjax_med.transforms import clip

SOURCES = {
    "algorithm": """
        from fedjax_med import Traits
        from fedjax_med.algorithms import fed_avg

        def build(training, server_optimizer, *, scale: float = 1.0):
            base = fed_avg.build(training, server_optimizer)
            def server_update(server, message):
                import jax
                return base.server_update(server, jax.tree.map(lambda leaf: scale * leaf, message))
            return base._replace(server_update=server_update, traits=Traits())

        def wrong(training, server_optimizer):
            return "no algorithm"

        value = 3
    """,
    "broken": "import a_package_that_nobody_has",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's in the current folder."""
    folder = tmp_path / "their_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in SOURCES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nowhere")  # so that what is appended to sys.path goes again
    yield folder
    for module in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[module]  # another test has other files of these names


OWN = "their_package.algorithm:build"


def train(workdir, *arguments):
    quick = ("--config.rounds=1", "--config.client.epochs=1")
    return cli.main(
        ["train", f"--config={tiny.__file__}", f"--workdir={workdir}", *quick, *arguments]
    )


def final_loss(workdir):
    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)["validation"]["loss"]


@pytest.mark.slow
def test_a_component_of_ones_own_trains_with_its_options(package, tmp_path):
    own = f"--config.algorithm.name={OWN}"
    assert train(tmp_path / "plain") == 0
    assert train(tmp_path / "same", own) == 0
    assert train(tmp_path / "none", own, "--config.algorithm.options.scale=0") == 0
    assert final_loss(tmp_path / "same") == final_loss(tmp_path / "plain")
    assert final_loss(tmp_path / "none") != final_loss(tmp_path / "plain")
    saved = json.loads((tmp_path / "none" / "experiment.json").read_text())
    assert saved["experiment"]["algorithm"] == {"name": OWN, "options": {"scale": 0.0}}
    evaluate = ["evaluate", f"--workdir={tmp_path / 'same'}"]
    assert cli.main(evaluate) == 2  # nobody but the workdir says that this code may run
    assert cli.main([*evaluate, f"--allow_components={OWN}"]) == 0


@pytest.mark.slow
def test_a_changed_source_is_said_when_the_run_resumes(package, tmp_path, capsys):
    own = f"--config.algorithm.name={OWN}"
    assert train(tmp_path / "run", own, "--config.client.schedule=constant") == 0
    with (package / "algorithm.py").open("a") as file:
        file.write("# changed\n")
    more = ("--config.client.schedule=constant", "--config.rounds=2")
    assert train(tmp_path / "run", own, *more) == 0
    told = "".join(capsys.readouterr())
    said = told.partition("Since the checkpoint of round 1")[2]
    assert f"component algorithms {OWN} " in said
    assert "With a changed component everything may differ" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_package.nothing:build", "No module named 'their_package.nothing'"),
        ("their_package.broken:build", "No module named 'a_package_that_nobody_has'"),
        ("their_package.algorithm:nothing", "has no attribute 'nothing'"),
        ("their_package.algorithm:biuld", "has no attribute 'biuld' (did you mean 'build'?)"),
        ("their_package.algorithm:value", "expected a function that builds it, got int"),
        ("their_package.algorithm:wrong", "to return a FederatedAlgorithm, got str"),
        ("their_package.algorithm", "such as their_package.algorithm:build"),
        ("their_package:", "cannot be imported"),
        (":build", "cannot be imported"),
    ],
)
def test_what_is_no_component_is_refused_in_one_line(package, tmp_path, capsys, name, said):
    assert train(tmp_path / "run", f"--config.algorithm.name={name}") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedjax-med")]
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_builder_of_another_shelf_is_refused(package):
    given = complete(Experiment(aggregator=Spec(OWN)))
    with pytest.raises(UserError, match="missing a required argument: 'training'"):
        check_before_data(settle(given))


def test_an_option_that_it_does_not_have_is_refused(package):
    with pytest.raises(UserError, match="There is no 'size' in the options of algorithm"):
        complete(Experiment(algorithm=Spec(OWN, {"size": 1})))


def test_privacy_asks_its_traits(package):
    given = Experiment(algorithm=Spec(OWN))
    given.privacy.unit = "example"
    with pytest.raises(UserError, match=rf"algorithm {OWN} does not go with"):
        check_before_data(settle(complete(given)))


def test_privacy_refuses_a_transform_that_does_not_say_what_it_mixes(package):
    (package / "shift.py").write_text(
        "from fedjax_med import MessageTransform\n"
        "def build(): return MessageTransform(lambda m, n: (), lambda m, i, s, k: (m, s))\n"
    )
    given = Experiment(transforms=[Spec("their_package.shift:build")])
    given.privacy.unit = "client"
    with pytest.raises(UserError, match=r"transform their_package\.shift:build does not go with"):
        check_before_data(settle(complete(given)))


def test_an_optimizer_may_come_from_anywhere():
    spec = Spec("optax:adam", {"learning_rate": 0.1})
    given = complete(Experiment(server_optimizer=spec))
    assert given.server_optimizer.options["b1"] == 0.9
    check_before_data(settle(given))


def point(name, value):
    return metadata.EntryPoint(name, value, "fedjax_med.transforms")


@pytest.fixture
def installed(monkeypatch):
    """Sets the entry points of installed packages."""

    def install(*points):
        components._installed.cache_clear()
        monkeypatch.setattr(
            metadata, "entry_points", lambda group: points if "transforms" in group else ()
        )

    yield install
    components._installed.cache_clear()


def test_an_installed_component_has_a_name_of_its_own(installed):
    installed(point("our_clip", "fedjax_med.transforms.clip:build"))
    assert "our_clip" in components.names("transforms")
    assert components.find("transforms", "our_clip") is clip.build
    given = complete(Experiment(transforms=[Spec("our_clip", {"norm": 2.0})]))
    check_before_data(settle(given))


def test_a_name_that_two_components_have_is_refused(installed):
    installed(point("clip", "their_package.clip:build"))
    with pytest.raises(UserError, match=r"several components.*their_package\.clip:build"):
        components.find("transforms", "clip")
