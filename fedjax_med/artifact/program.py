"""The model of a bundle as a compiled program: StableHLO, for CPUs, CUDA and TPUs in one file.

The tensors are its inputs, so that the file stays small however large the network: they come from
``model.safetensors``. It holds the operations in the form that is fastest on each platform.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import export, lax

from fedjax_med import ops
from fedjax_med.artifact import form, tensors
from fedjax_med.artifact.bundle import Bundle
from fedjax_med.client.augmentation import mirrored, normalise
from fedjax_med.client.views import ORDER
from fedjax_med.core.model import Model
from fedjax_med.core.types import Array
from fedjax_med.data import feature_cache
from fedjax_med.errors import UserError, printable
from fedjax_med.evaluation import calibration
from fedjax_med.files import open_regular, unreadable

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-5  # the largest difference of a probability from the model's
# Where features of a frozen part are rounded to 16 bits, as they are kept: a value between two of
# them may go to the other one, and all that rounding changes probabilities by about as much.
ROUNDED = 1e-3
BATCHES = (1, 7)  # in which a new program is compared with its model
DRAWN = 35  # images that it is compared on

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

_BATCH = 64  # images at a time
_LEFT_OUT = "give --program=False to export without it"
# What XLA itself knows; all other targets would be code outside of the program.
_CUSTOM_CALL = re.compile(r"custom_call(?! @(?:shape_assertion|mhlo\.\w+)\()")


def probabilities(bundle: Bundle) -> Callable[[dict[str, Array], Array], Array]:
    """Build the function that the program computes, in the form for the platform of the trace.

    It takes the tensors by name and uint8 [B, S, S, 3], and returns float32 [B, K]: what `evaluate`
    predicts with the parameters of training, calibrated.
    """
    model, frozen, views = bundle.model, bundle.frozen, bundle.info["tta_views"]
    temperature = bundle.info["temperature"]
    numbers = range(views) if frozen is None else ORDER[:views]

    def compute(values: dict[str, Array], images: Array) -> Array:
        params = tensors.filled(bundle.params, tensors.MODEL, values)
        below = frozen and tensors.filled(frozen.params, tensors.FROZEN, values)

        def one(view: Array) -> Array:
            inputs = _normalised(model, view)
            if frozen is not None:
                seen = frozen.model.apply(below, _normalised(frozen.model, view), None)
                inputs = seen.astype(feature_cache.KIND).astype(jnp.float32)  # as they are kept
            return jax.nn.softmax(model.apply(params, inputs, None))

        # A loop over the views, so that the program does not grow with them.
        each = lax.map(one, jnp.stack([mirrored(images, number) for number in numbers]))
        mean = each.sum(0) / views
        return mean if temperature is None else _scaled(mean, temperature)

    return compute


def _normalised(model: Model, images: Array) -> Array:
    return normalise(images, model.mean, model.std, model.colour_constancy)


def _scaled(found: Array, temperature: float) -> Array:
    """Do what `calibration.scale` does, in float32."""
    logits = jnp.log(jnp.maximum(found, calibration.LEAST)) / temperature
    scaled: Array = jax.nn.softmax(logits)
    return scaled


def for_each_platform(compute: Callable[..., Array]) -> Callable[..., Array]:
    """Return a function that holds `compute` twice: as a CPU and as accelerators compute it."""

    def on(platform: str) -> Callable[..., Array]:
        def traced(*arguments: Any) -> Array:
            with ops.traced_for(platform):
                return compute(*arguments)

        return traced

    def either(*arguments: Any) -> Array:
        found: Array = lax.platform_dependent(*arguments, cpu=on("cpu"), default=on("gpu"))
        return found

    return either


def _exported(
    bundle: Bundle, compute: Callable[..., Array], platforms: tuple[str, ...] = PLATFORMS
) -> export.Exported:
    """Export `compute` for the tensors of a bundle and any number of images."""
    side = bundle.info["preprocessing"]["image_size"]
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    shapes = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in _values(bundle).items()}
    with _without_places():
        return export.export(jax.jit(compute, keep_unused=True), platforms=platforms)(
            shapes, images
        )


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keep the files and lines of this machine out of a program."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _values(bundle: Bundle) -> dict[str, Any]:
    """Return all tensors of a bundle by name."""
    below = {} if bundle.frozen is None else tensors.named(bundle.frozen.params, tensors.FROZEN)
    return tensors.named(bundle.params, tensors.MODEL) | below


def build(
    bundle: Bundle, reference: Callable[[Bundle, Pixels], Floats]
) -> tuple[bytes, dict[str, Any]]:
    """Export the program of a bundle, and compare it with the model on images that are drawn.

    Args:
        bundle: the model.
        reference: how the model predicts uint8 [N, S, S, 3]: [N, K].

    Returns:
        The program, and what ``bundle.json`` says of it.

    Raises:
        UserError: The model cannot be exported, or the program differs from it.
    """
    try:
        found = _exported(bundle, for_each_platform(probabilities(bundle)))
    except UserError:
        raise
    except Exception as error:  # whatever a model from elsewhere does that a program cannot
        raise UserError(
            f"the program of this model cannot be exported ({_short(error)}): {_LEFT_OUT}."
        ) from error
    if foreign := _foreign(found):
        raise UserError(f"the program of this model {foreign}: {_LEFT_OUT}.")
    return found.mlir_module_serialized, {
        "calling_convention": found.calling_convention_version,
        "platforms": list(found.platforms),
        "compared_images": DRAWN,
        "largest_difference": _compared(bundle, found, reference),
    }


def _compared(
    bundle: Bundle, found: export.Exported, reference: Callable[[Bundle, Pixels], Floats]
) -> float:
    """Return the largest difference of a probability from the model's.

    The images are noise, since an export has no data.

    Raises:
        UserError: It is above `TOLERANCE`, or `ROUNDED` with a frozen part.
    """
    side = bundle.info["preprocessing"]["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (DRAWN, side, side, 3), np.uint8)
    expected = reference(bundle, pixels)
    run = _runner(bundle, found)
    different = [np.abs(run(pixels, batch) - expected).max() for batch in BATCHES]
    largest = float(np.max(different))
    most = TOLERANCE if bundle.frozen is None else ROUNDED
    if not largest <= most:  # NaN too
        raise UserError(
            f"the program of this model differs from the model by {largest:.1e} in a probability "
            f"(at most {most:g} is allowed): {_LEFT_OUT}."
        )
    return largest


def _runner(bundle: Bundle, found: export.Exported) -> Callable[..., Floats]:
    """Return the function from uint8 [n, S, S, 3] and a number of images at a time to [n, K]."""
    values, call = jax.tree.map(jnp.asarray, _values(bundle)), jax.jit(found.call)

    def run(pixels: Pixels, batch: int = _BATCH) -> Floats:
        batch, parts = min(batch, len(pixels)), []
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch]
            full = np.zeros((batch, *part.shape[1:]), np.uint8)  # one shape, compiled once
            full[: len(part)] = part
            parts.append(np.asarray(call(values, full))[: len(part)])
        return np.concatenate(parts)

    return run


def reader(bundle: Bundle) -> Callable[[Pixels], Floats]:
    """Read the program of a bundle, after its SHA-256 is checked.

    Returns:
        A function from uint8 [n, S, S, 3] to probabilities float32 [n, K].

    Raises:
        UserError: There is none, it is damaged, or calls what is outside of it; the function: it
            does not run here.
    """
    file, about = bundle.folder / form.PROGRAM, bundle.info.get("program")
    if form.PROGRAM not in bundle.info["files"] or not about:
        raise UserError(
            f"{bundle.folder} has no program ({form.PROGRAM}): leave --program out, or export the "
            "run again without --program=False."
        )
    try:
        with open_regular(file, form.LARGEST_PROGRAM) as stream:
            content = stream.read()
    except OSError as error:
        raise unreadable(file, error, form.ADVICE) from error
    if hashlib.sha256(content).hexdigest() != bundle.info["files"][form.PROGRAM]:
        raise form.damaged(file)
    found = _restored(bundle, content, about["calling_convention"])
    run = _runner(bundle, found)

    def guarded(pixels: Pixels) -> Floats:
        try:
            return run(pixels)
        except Exception as error:  # whatever JAX raises
            raise UserError(
                f"{file} does not run on this machine ({_short(error)}): leave --program out."
            ) from error

    return guarded


def _restored(bundle: Bundle, content: bytes, convention: int) -> export.Exported:
    """Give a module the inputs and the output that the program of this bundle must have."""
    classes, file = len(bundle.class_names), bundle.folder / form.PROGRAM

    def alike(values: dict[str, Array], images: Array) -> Array:
        return jnp.zeros((images.shape[0], classes))

    known = range(
        export.minimum_supported_calling_convention_version,
        export.maximum_supported_calling_convention_version + 1,
    )
    if convention not in known:
        raise UserError(f"{file} is of a version that this JAX does not run: leave --program out.")
    found = dataclasses.replace(
        _exported(bundle, alike),
        mlir_module_serialized=content,
        calling_convention_version=convention,
    )
    if foreign := _foreign(found):
        raise UserError(f"{file} {foreign}: it is not run. Leave --program out.")
    return found


def _foreign(found: export.Exported) -> str:
    """Say what of a program is no computation of its own; "" if all is."""
    try:
        text = found.mlir_module()
    except Exception as error:  # whatever reads the bytes
        return f"cannot be read ({_short(error)})"
    call = _CUSTOM_CALL.search(text)
    what = printable(text[call.start() : call.start() + 60]) if call else ""
    return f"calls what is outside of it ({what})" if call else ""


def _short(error: Exception) -> str:
    return printable(" ".join(str(error).split()), 200) or type(error).__name__
