import jax
import jax.numpy as jnp
import optax
import pytest
import toy
from jax import lax

from fedjax_med import ops
from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import client_map
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.errors import UserError
from fedjax_med.execution import backend
from fedjax_med.execution.backend import Workload
from fedjax_med.execution.compilation import compile_process
from fedjax_med.experiment import config

NETWORK = Workload(parameters=400_000, convolutions=True)


@pytest.mark.parametrize(
    ("platform", "devices", "processes", "expected"),
    [
        ("cpu", 1, 1, "sequential"),
        ("cpu", 4, 1, "sequential"),
        ("cpu", 4, 2, "sharded_sequential"),
        ("gpu", 1, 1, "vmap"),
        ("gpu", 8, 1, "sharded_vmap"),
        ("tpu", 8, 2, "sharded_vmap"),
    ],
)
def test_auto_picks_by_platform_and_devices(platform, devices, processes, expected):
    choice = backend.pick(platform, devices, NETWORK, processes)
    assert choice.name == expected
    assert choice.auto == (platform != "cpu")  # may be exchanged for what needs less memory


def test_auto_maps_a_small_dense_model_at_once_on_a_cpu_too():
    small, large = Workload(1_000, convolutions=False), Workload(10**7, convolutions=False)
    assert backend.pick("cpu", 1, small).name == "vmap"
    assert backend.pick("cpu", 2, small, processes=2).name == "sharded_vmap"
    assert backend.pick("cpu", 1, large).name == "sequential"
    assert backend.pick("cpu", 1, small._replace(convolutions=True)).name == "sequential"


def test_what_is_asked_for_is_taken_and_sharded_means_what_suits_the_platform():
    for name in client_map.CLIENT_MAPS:
        assert backend.choose(name, NETWORK, "vmap").name == name
    assert backend.choose("sharded", NETWORK).name == "sharded_sequential"  # on this CPU


def test_auto_keeps_to_a_strategy_that_still_exists():
    assert backend.choose("auto", NETWORK, "sharded_vmap").name == "sharded_vmap"
    assert backend.choose("auto", NETWORK, "pmap").name == "sequential"


def test_several_processes_need_a_sharded_strategy(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert backend.choose("auto", NETWORK, "vmap").name == "sharded_sequential"
    assert backend.choose("auto", NETWORK, "sharded_vmap").name == "sharded_vmap"
    with pytest.raises(UserError, match="map_clients=vmap uses one device"):
        backend.choose("vmap", NETWORK)


def test_every_choice_of_the_configuration_is_a_strategy():
    choices = config.Experiment.__dataclass_fields__["map_clients"].metadata["choices"]
    assert set(choices) == set(backend.NAMES)


def test_work_counts_parameters_and_sees_convolutions():
    dense = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}
    assert backend.workload(dense) == Workload(16, False)
    assert backend.workload(dense | {"k": jnp.zeros((3, 3, 1, 2))}) == Workload(34, True)


SIDE = 512


def of_two_factors(a):
    return jnp.sum(jnp.sin(a[:, None] + a[None]) @ jnp.cos(a[:, None] * a[None]))[None]


def of_products(a):
    matrix = a[:, None] * a[None]
    for _ in range(4):
        matrix = jnp.tanh(matrix @ matrix)
    return matrix.sum(0)


def of_a_loop(a):
    return lax.scan(lambda carry, _: (of_products(carry), None), a, None, length=3)[0]


def of_a_cube(a):
    return jnp.sum(jnp.sin(a[:, None, None] + a[None, :64, None] + a[None, None]), (0, 1))


def of_a_sort(a):
    return jnp.sort(a[:, None] * a[None], axis=0).sum(0)


def of_a_convolution(a):
    image = a[None, :, None, None] * a[None, None, :, None]
    return lax.conv(image.swapaxes(1, 3), jnp.ones((8, 1, 3, 3)), (1, 1), "SAME").sum((0, 1, 2))


@pytest.mark.parametrize(
    ("function", "floats"),
    [
        (of_two_factors, 2 * SIDE**2),
        (of_products, 2 * SIDE**2),
        (of_a_loop, 2 * SIDE**2),
        (of_a_cube, 64 * SIDE**2),
        (of_a_sort, SIDE**2),
        (of_a_convolution, 8 * SIDE**2),
    ],
)
@pytest.mark.parametrize("options", [{}, ops.compiler_options()])
def test_needed_memory_counts_what_lies_between_the_operations(function, floats, options):
    lowered = jax.jit(function, compiler_options=options).lower(jnp.zeros(SIDE))
    assert 4 * floats <= backend.bytes_needed(lowered) <= 2.5 * 4 * floats


def test_needed_memory_counts_arguments_and_results_and_once_what_is_donated():
    a = jnp.zeros((SIDE, SIDE))
    add = lambda a: a + 1  # noqa: E731
    assert backend.bytes_needed(jax.jit(add).lower(a)) == 2 * a.nbytes
    assert backend.bytes_needed(jax.jit(add, donate_argnums=0).lower(a)) == a.nbytes


def test_a_program_that_the_compiler_finds_too_large_needs_more_than_there_is(monkeypatch):
    lowered = jax.jit(lambda a: a).lower(jnp.zeros(1))

    def compile_(self, options):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(type(lowered), "compile", compile_)
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"
    assert backend.bytes_needed(lowered) == float("inf")
    said = "INTERNAL: another fault"
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        backend.bytes_needed(lowered)


def test_free_memory_is_that_of_the_fullest_device(monkeypatch):
    assert backend.bytes_free() == float("inf")  # a CPU does not tell

    class Device:
        def __init__(self, **stats):
            self.memory_stats = lambda: stats

    devices = [Device(bytes_limit=100, bytes_in_use=20), Device(bytes_limit=100, bytes_in_use=50)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert backend.bytes_free() == pytest.approx(0.9 * 50)


@pytest.mark.parametrize(
    ("platform", "flags", "expected"),
    [
        ("gpu", "", {"xla_gpu_deterministic_ops": True}),
        ("gpu", "--other --xla_gpu_deterministic_ops=true", {"xla_gpu_deterministic_ops": True}),
        ("gpu", "--xla_gpu_deterministic_ops=false", {}),
        ("cpu", "", {}),
    ],
)
def test_programs_for_gpus_add_in_a_fixed_order_unless_the_user_says_otherwise(
    platform, flags, expected, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert backend.repeatable() == expected
    monkeypatch.undo()
    assert jax.jit(lambda a: a + 1, compiler_options=expected)(1) == 2  # XLA knows the option


def test_every_round_is_compiled_to_repeat_its_bits(monkeypatch):
    monkeypatch.setattr(backend, "repeatable", lambda: {"no_such_option": True})
    trainer, data = LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), toy.federation((3, 2))
    process = Process(fed_avg.build(trainer, optax.sgd(1.0)), mean.build())
    compiled = compile_process(process, 2, backend.choose("vmap", NETWORK), 0)
    lowered = compiled.lower(process.init(toy.params(), data), RoundBatch(data), jax.random.key(0))
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        lowered.compile()
