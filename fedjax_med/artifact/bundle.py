"""Reads a bundle: checked as a whole, and nothing in it is executed."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med.artifact import form, tensors
from fedjax_med.core.model import Model, Tensors
from fedjax_med.core.types import Params
from fedjax_med.data.feature_cache import Part
from fedjax_med.errors import UserError
from fedjax_med.experiment import build, components, config
from fedjax_med.files import unreadable


class Bundle(NamedTuple):
    """A model that was exported, with all that is needed to predict."""

    folder: Path
    info: dict[str, Any]  # the content of bundle.json
    model: Model
    params: Params
    frozen: Part | None  # what images pass through before the model, if anything

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the K names of the classes."""
        return tuple(self.info["class_names"])


class Shapes(NamedTuple):
    """The model of an experiment, and the shapes of its parameters."""

    model: Model
    params: Params
    below: Model | None  # the frozen part
    frozen: Params | None

    def named(self) -> dict[str, Any]:
        """Return all shapes by the names of their tensors."""
        below = {} if self.below is None else tensors.named(self.frozen, tensors.FROZEN)
        return tensors.named(self.params, tensors.MODEL) | below


def shapes(experiment: config.Experiment, num_classes: int) -> Shapes:
    """Build the model that `experiment` names and the shapes of its parameters; compute nothing.

    Raises:
        UserError: The model or one of its options does not exist.
    """
    model, side = build.build_model(experiment, num_classes), experiment.image_size
    below, key = model.frozen, jax.random.key(0)
    if below is not None:
        below = below._replace(colour_constancy=experiment.colour_constancy)
    one = (side, side, 3)
    return Shapes(
        model,
        jax.eval_shape(lambda: model.init(key, one)),
        below,
        None if below is None else jax.eval_shape(lambda: below.init(key, one)),
    )


def preparation(experiment: config.Experiment, of: Model) -> dict[str, Any]:
    """Return how an image becomes the input of `of`, the frozen part if there is one, as JSON."""
    return {
        "image_size": experiment.image_size,
        "crop": experiment.crop,
        "mean": list(of.mean),
        "std": list(of.std),
        "colour_constancy": experiment.colour_constancy,
        "range": list(experiment.dataset.options.get("range", ())) or None,
    }


def read(folder: Path, allowed: Collection[str] = ()) -> Bundle:
    """Read the bundle in `folder`.

    Args:
        folder: as `export` wrote it, or anything else.
        allowed: models from elsewhere, as ``MODULE:FUNCTION``, that may be imported.

    Raises:
        UserError: It is no bundle, of another version, damaged, contradicts itself or names a model
            from elsewhere that is not in `allowed`.
    """
    info = form.read_info(folder)
    experiment = config.from_dict(info["experiment"])
    _check_allowed(folder, experiment, allowed)
    found = _shapes(folder, experiment, info)
    values = tensors.read(folder / form.TENSORS, found.named(), form.ADVICE)
    return assembled(folder, info, found, values)


def assembled(folder: Path, info: dict[str, Any], found: Shapes, values: Tensors) -> Bundle:
    """Put the tensors of a bundle into its model.

    Args:
        folder: of the bundle.
        info: the content of ``bundle.json``; without ``files`` before it is written.
        found: the model, and the shapes of its parameters.
        values: the tensors by name.
    """
    params = tensors.filled(found.params, tensors.MODEL, values)
    frozen = None
    if found.below is not None:
        below = tensors.filled(found.frozen, tensors.FROZEN, values)
        frozen = Part(found.below, below, info.get("files", {}).get(form.TENSORS, ""))
    return Bundle(folder, info, found.model, params, frozen)


def _check_allowed(folder: Path, experiment: config.Experiment, allowed: Collection[str]) -> None:
    """Refuse a model of which nobody but the bundle says that its code may run."""
    alone = dataclasses.replace(config.Experiment(), model=experiment.model)
    if foreign := components.from_elsewhere(alone) - set(allowed):
        (name,) = foreign
        raise UserError(
            f"{folder} has a model from outside of fedjax_med ({name}), whose code would run now. "
            f"If it is yours or you trust it, give --allow_components={name}."
        )


def _shapes(folder: Path, experiment: config.Experiment, info: dict[str, Any]) -> Shapes:
    """Build the shapes of what somebody else has written, whatever it is."""
    file = folder / form.INFO
    if experiment.image_size != info["preprocessing"]["image_size"]:  # before anything is built
        raise _contradiction(file)
    try:
        found = shapes(experiment, len(info["class_names"]))
        prepared = preparation(experiment, found.below or found.model)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # options that no model has, or of another type
        raise unreadable(file, error, form.ADVICE) from error
    if prepared != info["preprocessing"]:
        raise _contradiction(file)
    return found


def _contradiction(file: Path) -> UserError:
    reason = "its preprocessing is not that of its experiment and of this version's model"
    return unreadable(file, ValueError(reason), form.ADVICE)
