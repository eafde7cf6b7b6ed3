"""What the benchmarks say of the work is true, without any of the peers."""

import contextlib
import dataclasses
import json
import os
from types import SimpleNamespace

import as_markdown
import growth
import jax
import jax.numpy as jnp
import jax_model
import limits
import numpy as np
import pytest
import run_ours
import startup
import stream
import workloads

from fedjax_med import ops
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import round_loader
from fedjax_med.experiment.build import build_model
from fedjax_med.experiment.config import Spec
from fedjax_med.experiment.plan import compile_plan, first_state


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The work of softmax regression with 12 clients, of whom 4 take part, in a file."""
    work = workloads.Workload(Spec("linear"), 4, 12, 4, 6, 2, 0.1, rounds=2)
    monkeypatch.setitem(workloads.WORKLOADS, "small", work)
    monkeypatch.setattr(workloads, "matrix_peak", lambda: 1e9)
    about = workloads.write("small", 0, 2, tmp_path / "small.npz")
    return np.load(tmp_path / "small.npz"), about


def rounds_of(work, count):
    """The global weights and who took part, after each of fedjax_med's own rounds."""
    experiment = dataclasses.replace(workloads.experiment("small"), rounds=count)
    plan, data = workloads.plan_of(experiment), run_ours.held(work)
    compiled, state = compile_plan(plan), first_state(plan, data.shapes())
    with contextlib.closing(round_loader(compiled, data, plan.key, count)) as feed:
        for number in range(1, count + 1):
            state, metrics = compiled.run_round(state, feed.get(number), plan.key)
            yield jax.device_get((state.server.params["classifier"], metrics["client"]))


def test_cohorts_in_the_file_are_those_of_our_rounds(small):
    work, _ = small
    assert work["cohorts"].shape == (1 + 2 * 2, 4)
    drawn = [clients for _, clients in rounds_of(work, 5)]
    np.testing.assert_array_equal(work["cohorts"], drawn)


def test_federated_averaging_of_the_file_by_hand_is_our_first_round(small):
    work, _ = small
    kernel = work["params/classifier/kernel"].astype(np.float64)
    bias = work["params/classifier/bias"].astype(np.float64)
    trained = []
    for client in work["cohorts"][0]:
        k, b = kernel.copy(), bias.copy()
        for index in work["order"][client]:
            x = work["image"][client][index].reshape(len(index), -1)
            scores = np.exp(x @ k + b)
            wrong = scores / scores.sum(1, keepdims=True)
            wrong[np.arange(len(index)), work["label"][client][index]] -= 1
            k -= 0.1 * x.T @ wrong / len(index)
            b -= 0.1 * wrong.mean(0)
        trained.append((k, b))
    ours, _ = next(rounds_of(work, 1))
    np.testing.assert_allclose(ours["kernel"], np.mean([k for k, _ in trained], 0), atol=1e-5)
    np.testing.assert_allclose(ours["bias"], np.mean([b for _, b in trained], 0), atol=1e-5)


def test_operations_of_a_round_are_those_of_its_products(small):
    _, about = small
    # Logits and the kernel's gradient: a multiplication and an addition for each weight in both.
    assert about["flops"] == pytest.approx(4 * 6 * 4 * 48 * 9, rel=0.1)
    assert about["rounds_in_a_turn"] == 2
    assert about["platform"] == "cpu"


def test_operations_do_not_depend_on_the_lowering_of_the_convolutions():
    model = build_model(workloads.experiment("cnn"), 9)
    flops = workloads.training_flops(model, (16, 16, 3))
    products = sum(
        # Of 9 x 9 products with the window's pixels those with the padding do not count.
        2 * (3 * side - 2) ** 2 * channels * features * (2 if channels == 3 else 3)
        for side, channels, features in ((16, 3, 32), (8, 32, 64), (4, 64, 128))
    )
    assert products < flops < 1.1 * products


@pytest.mark.parametrize(
    "name", ["cnn", pytest.param("efficientnet_lite0", marks=pytest.mark.slow), "linear"]
)
def test_peers_network_in_plain_jax_is_ours(name):
    side = 32 if name == "efficientnet_lite0" else 16
    model = build_model(workloads.experiment(name), 9)
    params = model.init(jax.random.key(0), (side, side, 3))
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), params
    )
    images = jax.random.normal(jax.random.key(2), (2, side, side, 3))

    def ours(params, images):
        return model.apply(params, images, None)

    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(jax_model.LOGITS[name])(params, images)
    np.testing.assert_allclose(jax.jit(ours)(params, images), theirs, rtol=1e-4, atol=1e-4)


def test_every_workload_has_its_network_for_fedjax():
    assert workloads.WORKLOADS.keys() == jax_model.LOGITS.keys()


@pytest.mark.slow
def test_growth_measures_a_point_and_draws_it(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "SIDE", 8)
    point = growth.Point("clients", 3, 3)
    one = growth.measure(point, rounds=1)
    assert Spec("everyone") == growth.experiment(point, 1).cohort
    assert json.loads(json.dumps(one)).keys() >= {"seconds", "peak_megabytes", "clients"}
    row = as_markdown.growth([one]).splitlines()[-1]
    assert row.startswith("| clients | 3 | 3 | 1 | 1 | ")
    growth.draw([one], str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_growth_measures_each_point_in_a_process_with_its_devices(monkeypatch):
    called = []

    def run(command, *, env, **options):
        called.append((command, env["XLA_FLAGS"]))
        return SimpleNamespace(stdout='{"seconds": 1.5}')

    monkeypatch.setattr(growth.subprocess, "run", run)
    point = growth.Point("devices", devices=4)
    assert growth.measure_apart(point, 3) == {"seconds": 1.5}
    ((command, flags),) = called
    given = next(one for one in command if one.startswith("--point=")).partition("=")[2]
    assert growth.Point(**json.loads(given)) == point
    assert "--rounds=3" in command
    assert flags.endswith("--xla_force_host_platform_device_count=4")


def test_growth_has_ten_thousand_clients_with_all_and_with_a_hundred_of_them():
    points = growth.points(["clients"], 10_000)
    assert {(point.clients, point.cohort) for point in points} >= {(10_000, 10_000), (10_000, 100)}
    assert max(point.clients for point in growth.points(["clients"], 1_000)) == 1_000
    assert [point.epochs for point in growth.points(["epochs"], 1)] == [1, 2, 3, 4, 5]
    assert [point.devices for point in growth.points(["devices"], 1)] == [1, 2, 4]


def test_startup_waits_for_the_data_and_for_the_first_round(tmp_path, monkeypatch):
    package = tmp_path / "fedjax_med"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import sys, time\nassert sys.argv[1] == 'train' and '--x=1' in sys.argv\n"
        "time.sleep(0.2)\nprint('5 clients train on 1 image')\ntime.sleep(0.3)\n"
        "print('round  1/20  loss 1')\ntime.sleep(60)\n"
    )
    monkeypatch.setattr("startup.HERE", tmp_path / "benchmarks")
    found = startup.measure(["--x=1"], 1)
    for data, first_round in found.values():
        assert 0.2 <= data <= first_round - 0.3 + 0.01
        assert first_round < 30
    assert as_markdown.startup(found).count("\n") == 3
    with pytest.raises(SystemExit, match="AssertionError"):
        startup.start(["--x=2"], tmp_path)


def test_products_of_a_program_are_found_in_its_loops():
    def program(x, w):
        step = lambda carry, one: (carry + jax.jit(jnp.dot)(one, w).sum(), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, x)[0] + jnp.dot(w, w.T).sum()

    jaxpr = jax.make_jaxpr(program)(jnp.ones((7, 50, 4)), jnp.ones((4, 6))).jaxpr
    found = {
        times: [[one.shape for one in some] for some in (product.shapes, product.passed)]
        for times, product in limits.products(jaxpr)
    }
    assert found == {7: [[(50, 4), (4, 6)], [(50, 4), (50, 6)]], 1: [[(4, 6), (6, 4)], []]}


def test_limits_of_a_round_are_measured_and_told_beside_the_targets(monkeypatch):
    monkeypatch.setitem(
        workloads.WORKLOADS, "linear", workloads.Workload(Spec("linear"), 4, 3, 3, 6, 2, 0.1)
    )
    monkeypatch.setattr(workloads, "matrix_peak", lambda: 1e9)
    limits.FLAGS(["limits.py", "--repeats=1"])
    one = limits.measure("linear")
    assert min(one["round"], one["products"], one["passes"], *one["parts"].values()) > 0
    assert one["at_peak"] == pytest.approx(4 * 18 * 48 * 9 / 1e9, rel=0.1)
    assert one["steps"] == 9
    assert one["without_windows"] is None
    one |= {"round": 0.5, "products": 0.1, "passes": 0.15}
    text = limits.as_markdown([one], {"linear": {"pytorch": 2.0, "pfl": None}})
    assert "| linear | 0.5 | - | 0.1 | 0.15 | 0.25 |" in text
    assert "| linear | pytorch | 5 | 2.00 | 4.00 |" in text
    assert "pfl" not in text
    assert "| a client's step | 55.6 |" in text
    one |= {"without_windows": 0.3}
    assert "| linear | 0.5 | 0.3 | 0.1 |" in limits.as_markdown([one], {})


def test_without_its_windows_a_depthwise_convolution_has_one_place(monkeypatch):
    image, kernel = jnp.arange(2.0 * 5 * 5 * 3).reshape(2, 5, 5, 3), jnp.ones((3, 3, 1, 3))
    found = []

    def rounds(name, held):
        strides, numbers = (2, 2), ("NHWC", "HWIO", "NHWC")
        found.append(
            ops.conv_general_dilated(
                image, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=3
            )
        )
        return 1.5

    monkeypatch.setattr(limits, "timed_rounds", rounds)
    assert limits.without_windows("any", None) == 1.5
    np.testing.assert_array_equal(found[0], image[:, ::2, ::2])


def test_stream_trains_the_clients_images_as_one_client(monkeypatch):
    work = workloads.Workload(Spec("linear"), 4, 3, 3, 6, 2, 0.1)
    monkeypatch.setitem(workloads.WORKLOADS, "small", work)
    shapes = []
    loader = stream.round_loader

    def spied(compiled, data, *key_and_last):
        shapes.append(data.shapes().label.shape)
        return loader(compiled, data, *key_and_last)

    monkeypatch.setattr(stream, "round_loader", spied)
    how, ratios, seconds = stream.compare("small", 0, "vmap", 3)
    assert how == "vmap"
    assert sorted(set(shapes)) == [(1, 18), (3, 6)]
    assert len(ratios) == 3
    assert seconds > 0


def test_benchmarks_set_the_flags_of_every_command(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    backend.repeat_bits()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"
    monkeypatch.setenv("XLA_FLAGS", "--other")
    monkeypatch.setattr(stream, "FLAGS", SimpleNamespace(workload=[]))
    stream.main([])
    assert os.environ["XLA_FLAGS"] == "--other --xla_gpu_deterministic_ops=true"
    assert "| workload |" in capsys.readouterr().out
