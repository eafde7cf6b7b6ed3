"""Wraps flax.nnx modules in the pure interface of a model."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from flax import nnx

from fedjax_med.core.model import Model
from fedjax_med.core.types import Array, Key, Params
from fedjax_med.errors import UserError


def from_nnx(
    make: Callable[[int, nnx.Rngs], nnx.Module],
    smallest: int = 1,
    remedy: str = "",
    *,
    tells_features: bool = False,
) -> Model:
    """Wrap a flax.nnx module in the pure interface of a model.

    The module must not keep state outside its `nnx.Param` leaves (no running statistics): a
    federation would average it wrongly, and it could leak statistics of the images.

    Args:
        make: ``(channels, rngs) -> module``, called as ``module(images)`` or, if it takes them,
            ``module(images, rngs=rngs)``; ``rngs`` is None in evaluation.
        smallest: side of the smallest image that the module accepts, in pixels.
        remedy: advice in the `UserError` that ``init`` raises for a smaller one.
        tells_features: whether the module has a method ``features``, called like the module, that
            returns the input of its classifier.

    Raises:
        UserError: In ``init``, the image is too small, or the module keeps other state.
    """

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        if min(image_shape[:2]) < smallest:
            raise UserError(
                f"the model takes images of at least {smallest} pixels, got "
                f"{min(image_shape[:2])}: {remedy}."
            )
        module = make(image_shape[-1], nnx.Rngs(key))
        _check_state(module)
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    def call(method: str, params: Params, images: Array, key: Key | None) -> Array:
        module = nnx.eval_shape(lambda: make(images.shape[-1], nnx.Rngs(0)))
        graph, abstract = nnx.split(module)
        nnx.replace_by_pure_dict(abstract, params)
        bound = getattr(nnx.merge(graph, abstract), method)
        random = {"rngs": key if key is None else nnx.Rngs(key)} if _takes_rngs(bound) else {}
        result: Array = bound(images, **random)
        return result

    features = functools.partial(call, "features") if tells_features else None
    return Model(init, functools.partial(call, "__call__"), features=features)


def _takes_rngs(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return "rngs" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _check_state(module: nnx.Module) -> None:
    """Refuse a module with state that is no parameter: running statistics, random streams."""
    others = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param)))
    if others:
        path, variable = next(iter(others))
        raise UserError(
            f"the module keeps state that is no parameter ({type(variable).__name__} at "
            f"{'.'.join(map(str, path))}), which a federation cannot average: use group "
            "normalisation (nnx.GroupNorm) instead of batch normalisation, and give nnx.Dropout "
            "the `rngs` of __call__, not those of the constructor."
        )
