"""Pretrained networks as feature extractors: the moments of their layers, side by side."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.core.model import Model, Tensors
from fedjax_med.core.types import Array, Key, Params
from fedjax_med.errors import UserError
from fedjax_med.models import _efficientnet_lite, _vit

# Of each the model that gives its layers [B, D], and D.
BACKBONES: dict[str, Callable[[], tuple[Model, int]]] = {
    **{
        of.name: functools.partial(_efficientnet_lite.layers, of)
        for of in (_efficientnet_lite.LITE0, _efficientnet_lite.LITE1, _efficientnet_lite.LITE2)
    },
    **{of.name: functools.partial(_vit.layers, of) for of in (_vit.SMALL, _vit.BASE)},
}


def side_by_side(names: tuple[str, ...]) -> tuple[Model, int]:
    """Build the model that concatenates the outputs of backbones to float32 [B, 1, 1, D], and D.

    It takes images as the first of them normalises them; its parameters are by backbone, and the
    tensors of its ``pretrained`` have the backbone and a slash before their names.

    Args:
        names: keys of `BACKBONES`.

    Raises:
        UserError: A name is unknown or stands there twice.
    """
    if not set(names) <= BACKBONES.keys() or len(set(names)) < len(names):
        raise UserError(
            f"expected different backbones of {', '.join(BACKBONES)}, with + between them, got "
            f"{'+'.join(names)!r}."
        )
    built = {name: BACKBONES[name]() for name in names}
    models = {name: model for name, (model, _) in built.items()}
    return _concatenated(models), sum(size for _, size in built.values())


def _concatenated(models: dict[str, Model]) -> Model:
    first = next(iter(models.values()))

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        keys = jax.random.split(key, len(models))
        pairs = zip(models.items(), keys, strict=True)
        return {name: model.init(key, image_shape) for (name, model), key in pairs}

    def apply(params: Params, images: Array, key: Key | None) -> Array:
        found = [
            model.apply(params[name], _as_normalised_for(model, images, first), key)
            for name, model in models.items()
        ]
        return jnp.concatenate(found, axis=-1)[:, None, None].astype(jnp.float32)

    def pretrained(tensors: Tensors, params: Params) -> Params:
        made = {}
        for name, model in models.items():
            start = f"{name}/"
            own = {
                key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)
            }
            assert model.pretrained is not None
            made[name] = model.pretrained(own, params[name])
        return made

    return Model(init, apply, first.mean, first.std, pretrained=pretrained, networks=tuple(models))


def _as_normalised_for(model: Model, images: Array, before: Model) -> Array:
    if (model.mean, model.std) == (before.mean, before.std):
        return images
    mean, std, was_mean, was_std = (
        jnp.array(one).reshape(1, 1, 1, 3)
        for one in (model.mean, model.std, before.mean, before.std)
    )
    return (images * was_std + (was_mean - mean)) / std
