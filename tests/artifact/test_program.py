"""The program of a bundle computes what its model does, on the platform that it runs on."""

import csv
import hashlib
import json

import bundles
import efficientnet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fedjax_med import ops
from fedjax_med.artifact import bundle, form, images, predict, program, tensors
from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.models import _backbones
from fedjax_med.models import _efficientnet_lite as lite

SMALL = lite.variant("small", 0.2, 0.5)
CNN = Spec("cnn", {"widths": [4, 8], "groups": 2})
EVERYTHING = Experiment(image_size=16, model=CNN, tta_views=8, colour_constancy=6.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a bundle with a program: eight views, colour constancy and a temperature."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    bundles.write(folder, EVERYTHING, temperature=0.5, with_program=True)
    return folder


@pytest.fixture
def written(whole, tmp_path):
    """A copy of it."""
    (tmp_path / "model").mkdir()
    for file in whole.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path):
    """Three images."""
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(drawn(3)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def drawn(count, side=16):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def put(folder, content, **about):
    """Replace the program, and give it its SHA-256."""
    (folder / form.PROGRAM).write_bytes(content)
    info = json.loads((folder / form.INFO).read_text())
    info["files"][form.PROGRAM] = hashlib.sha256(content).hexdigest()
    info["program"] |= about
    (folder / form.INFO).write_text(json.dumps(info))


def run(folder, found, out, *flags):
    command = ["predict", f"--model={folder}", f"--images={found}", f"--out={out}"]
    return cli.main([*command, *flags])


def text_for(*platforms, experiment=EVERYTHING):
    """The StableHLO of a model's program for some platforms."""
    shapes = bundle.shapes(experiment, 3)
    params = shapes.model.init(jax.random.key(0), (experiment.image_size,) * 2 + (3,))
    values = tensors.named(params, tensors.MODEL)
    of = bundle.assembled("", bundles.info_of(experiment), shapes, values)
    compute = program.for_each_platform(program.probabilities(of))
    return program._exported(of, compute, platforms).mlir_module()


@pytest.mark.parametrize("count", [1, 7, 70])
def test_the_program_says_what_the_model_says(whole, count):
    found = bundle.read(whole)
    actual = program.reader(found)(drawn(count))
    assert (actual.shape, actual.dtype) == ((count, 3), np.float32)
    np.testing.assert_allclose(actual, predict.predict_pixels(found, drawn(count)), atol=1e-6)


def test_a_model_of_equal_logits_has_equal_probabilities(tmp_path):
    experiment = Experiment(image_size=16, model=CNN)
    shapes = bundle.shapes(experiment, 3).params
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    params["classifier"]["bias"] = jnp.log(jnp.array([1.0, 2.0, 5.0]))
    bundles.write(tmp_path / "m", experiment, params=params, temperature=0.5, with_program=True)
    found = program.reader(bundle.read(tmp_path / "m"))(drawn(2))
    expected = np.array([1, 4, 25]) / 30  # halving the temperature squares the odds
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-5)


def test_the_bundle_has_the_programs_digest_and_says_what_was_compared(whole):
    info = json.loads((whole / form.INFO).read_text())
    digest = hashlib.sha256((whole / form.PROGRAM).read_bytes()).hexdigest()
    assert info["files"][form.PROGRAM] == digest
    about = info["program"]
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["compared_images"] >= 32
    assert 0 < about["largest_difference"] < 1e-5


def test_predict_runs_the_program_if_it_is_asked_to(whole, folder, tmp_path, monkeypatch, capsys):
    assert run(whole, folder, tmp_path / "model.csv") == 0
    monkeypatch.setattr(predict, "predict_pixels", None)  # the model is not asked
    assert run(whole, folder, tmp_path / "program.csv", "--program") == 0
    one, other = (
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
        for name in ("model", "program")
    )
    for a, b in zip(one, other, strict=True):
        assert (a["file"], a["predicted"]) == (b["file"], b["predicted"])
        for name in bundles.NAMES:
            assert abs(float(a[f"p_{name}"]) - float(b[f"p_{name}"])) < 1e-6
    assert "3 images predicted" in capsys.readouterr().out


def test_without_the_flag_no_program_is_read_beyond_its_digest(written, folder, tmp_path, capsys):
    put(written, b"no program")
    assert run(written, folder, tmp_path / "o.csv") == 0
    capsys.readouterr()
    assert run(written, folder, tmp_path / "p.csv", "--program") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "program.stablehlo cannot be read (" in line
    assert not (tmp_path / "p.csv").exists()


def test_a_bundle_without_a_program_says_so(folder, tmp_path, capsys):
    bundles.write(tmp_path / "m")
    assert run(tmp_path / "m", folder, tmp_path / "o.csv", "--program") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no program (program.stablehlo): leave --program out" in line


def test_a_changed_and_a_missing_program_are_damage(written):
    content = (written / form.PROGRAM).read_bytes()
    (written / form.PROGRAM).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"program\.stablehlo is damaged or was changed"):
        bundle.read(written)
    (written / form.PROGRAM).write_bytes(content)
    found = bundle.read(written)
    (written / form.PROGRAM).write_bytes(content + b"x")  # after the bundle was read
    with pytest.raises(UserError, match="is damaged or was changed"):
        program.reader(found)
    (written / form.PROGRAM).unlink()
    with pytest.raises(UserError, match=r"program\.stablehlo.*No such file"):
        bundle.read(written)


def test_a_program_that_calls_what_is_outside_of_it_is_not_run(written):
    def compute(values, images):
        square = images[:, :3, :3, 0].astype(jnp.float32)
        return jnp.linalg.cholesky(square)[:, 0]  # by a library beside XLA

    found = bundle.read(written)
    put(written, program._exported(found, compute, ("cpu",)).mlir_module_serialized)
    with pytest.raises(UserError, match=r"calls what is outside of it .*custom_call @lapack"):
        program.reader(bundle.read(written))


def test_a_program_of_other_inputs_or_of_another_version_is_refused(written, tmp_path):
    bundles.write(tmp_path / "other", with_program=True)
    put(written, (tmp_path / "other" / form.PROGRAM).read_bytes())
    with pytest.raises(UserError, match="does not run on this machine") as told:
        program.reader(bundle.read(written))(drawn(1))
    assert "\n" not in str(told.value)
    put(written, b"", calling_convention=10_000)
    with pytest.raises(UserError, match="of a version that this JAX does not run"):
        program.reader(bundle.read(written))
    put(written, b"", calling_convention="9")
    with pytest.raises(UserError, match=r"calling_convention of program\.stablehlo"):
        bundle.read(written)


@pytest.mark.parametrize(("off", "shown"), [(1e-4, "1.0e-04"), (np.nan, "nan")])
def test_a_program_that_differs_from_its_model_is_not_exported(whole, off, shown):
    found = bundle.read(whole)
    with pytest.raises(UserError, match=f"by {shown} in a probability .at most 1e-05") as told:
        program.build(found, lambda *given: predict.predict_pixels(*given) + off)
    assert "\n" not in str(told.value)
    assert "--program=False" in str(told.value)


def test_a_model_that_cannot_be_exported_is_told_in_one_line(whole):
    def apply(params, images, key):
        return jnp.zeros((int(images.shape[0]), 3))  # needs to know the number of images

    found = bundle.read(whole)
    found = found._replace(model=found.model._replace(apply=apply))
    with pytest.raises(UserError, match=r"cannot be exported \(.*--program=False") as told:
        program.build(found, predict.predict_pixels)
    assert "\n" not in str(told.value)


def test_statistics_of_a_site_are_not_in_the_program_and_the_output_says_so(whole, folder):
    found = bundle.read(whole)
    found = found._replace(model=found.model._replace(own_statistics=0.5))
    files = images.listing(folder).files
    predicted = predict.predict_files(found, files, program.reader(found))
    assert not predicted.of_site
    assert predicted.notes == [
        "own_statistics=0.5 of the model is not applied: its program knows the statistics of "
        "training alone. Leave --program out to apply it."
    ]


def test_tensors_are_inputs_and_nothing_tells_of_this_machine(tmp_path):
    experiment = Experiment(image_size=64, model=Spec("linear"))
    bundles.write(tmp_path / "m", experiment, with_program=True)
    content = (tmp_path / "m" / form.PROGRAM).read_bytes()
    assert len(content) < 2e4 < (tmp_path / "m" / form.TENSORS).stat().st_size
    assert b"fedjax_med" not in content
    assert b".py" not in content


# --- the form for each platform ---------------------------------------------------------------


def test_each_platform_gets_its_own_form():
    """Of a CPU convolutions are matrix products; of accelerators they and pooling are XLA's own."""
    cpu, cuda, tpu = map(text_for, ("cpu", "cuda", "tpu"))
    for text in (cuda, tpu):
        assert text.count("stablehlo.convolution") == 2  # one of each layer
        assert text.count("reduce_window") > 0
    assert "stablehlo.convolution" not in cpu
    assert "reduce_window" not in cpu
    assert cpu.count("stablehlo.dot_general") > cuda.count("stablehlo.dot_general") == 1


def test_one_module_holds_both_forms_and_chooses_by_platform(whole):
    text = text_for(*program.PLATFORMS)
    assert "_platform_index" in text
    for of in ("stablehlo.case", "stablehlo.convolution", "reduce_window", "optimization_barrier"):
        assert of in text

    def compute(values, images):
        number = {"cpu": 1.0, "gpu": 2.0}[ops.platform()]
        return jnp.full((images.shape[0], 3), number)

    found = bundle.read(whole)
    compute = program.for_each_platform(compute)
    run_ = program._runner(found, program._exported(found, compute))
    np.testing.assert_array_equal(run_(drawn(2)), np.ones((2, 3)))
    for platform, number in {"cpu": "1.0", "cuda": "2.0", "tpu": "2.0"}.items():
        text = program._exported(found, compute, (platform,)).mlir_module()
        assert f"dense<{number}" in text
        assert text.count("dense<1.0") + text.count("dense<2.0") == 1


def test_the_platform_of_a_trace_ends_with_its_block():
    image = jnp.ones((1, 4, 4, 1))

    def form_of():
        return "reduce_window" in jax.jit(lambda x: ops.max_pool(x, 2)).lower(image).as_text()

    assert (ops.platform(), form_of()) == ("cpu", False)
    with ops.traced_for("gpu"):
        assert (ops.platform(), form_of()) == ("gpu", True)
        assert ops.micro_batch() == 0
    assert (ops.platform(), form_of()) == ("cpu", False)


def test_a_jitted_function_is_traced_anew_for_another_platform():
    pool = jax.jit(lambda x: ops.max_pool(x, 2))
    image = jnp.ones((1, 4, 4, 1))
    pool(image)
    with ops.traced_for("gpu"):
        assert "reduce_window" in pool.lower(image).as_text()
    assert "reduce_window" not in pool.lower(image).as_text()


# --- a frozen part ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_frozen_part_is_in_the_program(monkeypatch):
    monkeypatch.setattr(_backbones, "BACKBONES", {"small": lambda: lite.layers(SMALL)})
    spec = Spec("frozen_layers", {"backbones": "small"})
    experiment = Experiment(image_size=32, model=spec, tta_views=4)
    shapes = bundle.shapes(experiment, 3)
    params = shapes.model.init(jax.random.key(0), (32, 32, 3))
    kernel = params["classifier"]["kernel"]
    params["classifier"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    random = efficientnet.random_tensors(SMALL.stages)
    below = shapes.below.pretrained({f"small/{k}": v for k, v in random.items()}, shapes.frozen)
    values = tensors.named(params, tensors.MODEL) | tensors.named(below, tensors.FROZEN)
    values = {name: np.asarray(value) for name, value in values.items()}
    of = bundle.assembled("", bundles.info_of(experiment), shapes, values)
    content, about = program.build(of, predict.predict_pixels)
    assert about["largest_difference"] < 1e-3
    assert len(content) < sum(value.nbytes for value in values.values())
    other = of._replace(info=of.info | {"tta_views": 1})
    with pytest.raises(UserError, match="differs from the model"):  # of one view
        program.build(of, lambda _, pixels: predict.predict_pixels(other, pixels))
