import json
import os
import subprocess
import sys

import jax
import pytest

from fedjax_med.cli import main as cli
from fedjax_med.cli.commands import audit
from fedjax_med.execution import settings
from fedjax_med.experiment import config, resolve
from fedjax_med.run import library
from fedjax_med.run import train as run_train
from fedjax_med.run.load import read_run

OTHER = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_numpy_dtype_promotion": "strict",
}


@pytest.fixture
def changed():
    """Settings by which every number would change, as the environment may give them."""
    before = {name: getattr(jax.config, name) for name in OTHER}
    for name, value in OTHER.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def now():
    return {name: getattr(jax.config, name) for name in OTHER}


def test_what_would_change_every_number_is_set_and_given_back(changed):
    before = now()
    with settings.fixed_settings():
        assert now() == settings._FIXED
        assert jax.random.key(0).dtype == jax.random.key(0, impl="threefry2x32").dtype
        assert jax.numpy.ones(2).dtype == "float32"
    assert now() == before


def test_a_command_says_which_settings_it_does_not_follow(changed, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda arguments: 0)
    assert cli.main([]) == 0
    assert now() == settings._FIXED
    err = capsys.readouterr().err.splitlines()
    assert len(err) == len(OTHER)
    assert "JAX_ENABLE_X64=True would change every number, so this command goes by False" in err[0]
    assert cli.main([]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "variable", ["JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL", "JAX_RANDOM_SEED_OFFSET"]
)
def test_a_value_that_jax_does_not_take_is_told_in_one_line(variable):
    program = subprocess.run(
        [sys.executable, "-m", "fedjax_med", "--version"],
        env=os.environ | {variable: "banana"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (program.returncode, program.stdout) == (2, "")
    (line,) = program.stderr.splitlines()
    assert f"{variable} has a value that JAX does not take" in line


CHANGING = """
import jax
from fedjax_med.experiment.config import Experiment
jax.config.update("jax_enable_x64", True)

def get_config():
    jax.config.update("jax_random_seed_offset", 3)
    return Experiment()
"""


def test_a_config_file_does_not_change_the_settings_of_a_command(
    changed, tmp_path, monkeypatch, capsys
):
    """The fixture gives back what the file changes."""
    (tmp_path / "mine.py").write_text(CHANGING)
    seen = []
    monkeypatch.setattr(audit, "run", lambda flags: seen.append(now()))
    assert cli.main(["audit", f"--config={tmp_path / 'mine.py'}"]) == 0
    assert seen == [settings._FIXED]
    assert "JAX_ENABLE_X64=True would change every number" in capsys.readouterr().err


def test_a_component_does_not_change_the_settings_of_a_saved_run(changed, tmp_path, monkeypatch):
    def complete(experiment):
        for name, value in OTHER.items():  # as a component may that is imported here
            jax.config.update(name, value)
        return experiment

    monkeypatch.setattr(resolve, "complete", complete)
    content = {"experiment": config.to_dict(config.Experiment()), "data_dir": "", "data": ""}
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    read_run(tmp_path)
    assert now() == settings._FIXED
    seen = []
    monkeypatch.setattr(run_train, "train", lambda job: seen.append(now()) or 1)
    with pytest.raises(KeyboardInterrupt):
        library.train(config.Experiment(), workdir=tmp_path)
    assert seen == [settings._FIXED]


def test_what_changes_the_last_bits_is_recorded_if_it_is_set(monkeypatch):
    for name in ("XLA_FLAGS", *settings._ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    assert settings.settings() == {}
    harmless = "--xla_force_host_platform_device_count=4 --xla_gpu_deterministic_ops=true"
    monkeypatch.setenv("XLA_FLAGS", harmless)
    assert settings.settings() == {}
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_enable_fast_math=true {harmless}")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with jax.default_matmul_precision("bfloat16"):
        assert settings.settings() == {
            "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
            "NVIDIA_TF32_OVERRIDE": "0",
            "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        }
