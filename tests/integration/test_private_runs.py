"""Private runs: what reaches them of what was solved, and that every algorithm knows its place."""

import json
import shutil

import jax
import optax
import pytest
import tiny
import toy

from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.build import build_process
from fedjax_med.experiment.config import Checkpoint, Experiment, Privacy, Spec
from fedjax_med.privacy.plan import NoiseSource
from fedjax_med.run import noise_key
from fedjax_med.run import train as run_train
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.load import load_run, read_run

TINY = f"--config={tiny.__file__}"
QUICK = (
    "--config.client.epochs=1",
    "--config.model.name=linear",
    "--config.client.schedule=constant",
    "--config.privacy.accountant=rdp",
    "--config.rounds=2",
)
SOLVED = ("--config.privacy.unit=client", "--config.privacy.target_epsilon=6")


def train(workdir, *arguments):
    return cli.main(["train", TINY, f"--workdir={workdir}", *QUICK, *map(str, arguments)])


def read_identity(workdir):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints.read_identity(2)
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Two runs of the same seed: their workdirs, and what each was simulated with."""
    given, run_rounds = [], run_train.run_rounds

    def spy(run, *state_and_stop):
        given.append((run.plan, run.key))
        return run_rounds(run, *state_and_stop)

    workdirs = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_train, "run_rounds", spy)
        assert [train(workdir, *SOLVED) for workdir in workdirs] == [0, 0]
    return workdirs, given


def test_solved_noise_and_the_secret_reach_the_run(solved):
    workdirs, given = solved
    for workdir, (plan, key) in zip(workdirs, given, strict=True):
        written, tag = json.loads((workdir / "experiment.json").read_text()), read_identity(workdir)
        noise = plan.privacy.account.noise_multiplier
        assert noise == written["privacy"]["noise_multiplier"] != 1.0
        text = (workdir / "noise_key").read_text().strip()
        source = NoiseSource(noise_key.derive(text, tag["noise"]), tag["noise"])
        assert source.secret != text
        assert tag[noise_key.CHECK] == noise_key.check(source.secret)
        assert jax.random.key_data(source.key).tolist() == jax.random.key_data(key).tolist()
    keys = [jax.random.key_data(key).tolist() for _, key in given]
    assert keys[0] != keys[1]
    digests = [read_identity(workdir)["digest"] for workdir in workdirs]
    assert digests[0] != digests[1]


def test_the_privacy_of_a_run_is_that_of_its_checkpoint(solved, tmp_path):
    """A larger multiplier in experiment.json, which has no checksum, would report less epsilon."""
    workdirs, given = solved
    shutil.copytree(workdirs[0], tmp_path / "run")
    file = tmp_path / "run" / "experiment.json"
    saved = json.loads(file.read_text())
    saved["privacy"]["noise_multiplier"] *= 10
    file.write_text(json.dumps(saved))
    assert load_run(read_run(tmp_path / "run")).plan.privacy == given[0][0].privacy


def test_budget_that_the_rounds_have_exceeded_already_is_refused_on_resume(solved, capsys):
    assert train(solved[0][0], *SOLVED, "--config.privacy.budget=5") == 2
    assert "2 rounds have spent epsilon 6 already" in capsys.readouterr().err


def test_workdir_of_another_experiment_is_not_asked_for_its_secret(tmp_path, capsys):
    assert train(tmp_path) == 0
    assert train(tmp_path, *SOLVED) == 2
    said = capsys.readouterr().err
    assert "holds another experiment" in said
    assert "privacy.unit: the checkpoint has 'none', this run 'client'" in said
    assert "noise_key" not in said


# --- every algorithm ----------------------------------------------------------------------------

DATA = toy.federation((6, 5, 4))
REFUSED = {
    "client": {"scaffold", "fed_dyn", "fed_nova", "ifca", "cfl"},
    "example": {"fed_rep", "ditto", "apfl", "moon", "ifca", "cfl"},
}
LOCAL = {"fed_bn": {"local": ("b",)}, "fed_per": {"local": ("b",)}, "fed_rep": {"local": ("b",)}}


@pytest.mark.parametrize("unit", REFUSED)
@pytest.mark.parametrize("name", components.names("algorithms"))
def test_algorithm_has_private_rounds_or_refuses_in_one_line(name, unit):
    given = resolve.complete(
        Experiment(
            privacy=Privacy(unit=unit), algorithm=Spec(name, LOCAL.get(name, {})), num_clients=3
        )
    )
    training = LocalTrainer(
        toy.grad_fn(), optax.sgd(0.1), 1, 4, features=toy.features(), step_weight=sgd_step_weight()
    )

    def build():
        return build_process(resolve.settle(given).trained, training, toy.CLASSES)

    if name in REFUSED[unit]:
        with pytest.raises(UserError, match=f"algorithm {name} does not go with") as refused:
            build()
        assert "\n" not in str(refused.value)
        return
    process = build()
    assert process.aggregator.is_private == (unit == "client")

    def after(state):
        return process.round(state, DATA, jax.random.key(0), client_map=toy.MAP_CLIENTS)[0]

    # Traced and not run: compiling two dozen programs would take half a minute.
    before = jax.eval_shape(lambda: process.init(toy.params(), DATA))
    assert jax.eval_shape(after, before) == before
