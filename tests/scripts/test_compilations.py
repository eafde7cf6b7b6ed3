"""A whole `train` compiles the program of its rounds once."""

import jax
import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.execution import backend

TINY = f"--config={tiny.__file__}"
EVERYONE = "--config.cohort.name=everyone"
SAMPLED = "--config.cohort.name=uniform --config.cohort.options.size=2"
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, fun_name="", **_: (
        COMPILED.append(fun_name) if "backend_compile" in event else None
    )
)


def rounds_compiled(workdir, *arguments):
    """How many programs of a round four rounds of training compile, or read from the cache."""
    COMPILED.clear()
    flags = [TINY, f"--workdir={workdir}", "--config.rounds=4", *arguments]
    assert cli.main(["train", *flags]) == 0
    return COMPILED.count("jit(run)")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sequential", "vmap"])
@pytest.mark.parametrize("who", [EVERYONE, SAMPLED])
def test_a_run_of_equal_clients_compiles_its_round_once(tmp_path, who, how):
    assert rounds_compiled(tmp_path, *who.split(), f"--config.map_clients={how}") == 1


@pytest.mark.slow
def test_where_all_at_once_do_not_fit_the_memory_that_program_is_compiled_too(
    tmp_path, monkeypatch
):
    picked = backend.pick("gpu", 1, backend.Workload(0, True))
    monkeypatch.setattr(backend, "pick", lambda *sizes: picked)
    monkeypatch.setattr(backend, "bytes_free", lambda: 1e4)
    assert rounds_compiled(tmp_path, EVERYONE, "--config.map_clients=auto") == 2
