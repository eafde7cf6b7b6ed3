"""Wraps flax.nnx modules in the pure interface of a model."""

import functools
from collections.abc import Callable

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
        make: ``(channels, rngs) -> module``, called as ``module(images, rngs=rngs)``; ``rngs`` is
            None in evaluation.
        smallest: side of the smallest image that the module accepts, in pixels.
        remedy: advice in the `UserError` that ``init`` raises for a smaller one.
        tells_features: whether the module has a method ``features``, called like the module, that
            returns the input of its classifier.
    """

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        if min(image_shape[:2]) < smallest:
            raise UserError(
                f"the model takes images of at least {smallest} pixels, got "
                f"{min(image_shape[:2])}: {remedy}."
            )
        return nnx.to_pure_dict(nnx.state(make(image_shape[-1], nnx.Rngs(key)), nnx.Param))

    def call(method: str, params: Params, images: Array, key: Key | None) -> Array:
        module = nnx.eval_shape(lambda: make(images.shape[-1], nnx.Rngs(0)))
        graph, abstract = nnx.split(module)
        nnx.replace_by_pure_dict(abstract, params)
        method_of_module = getattr(nnx.merge(graph, abstract), method)
        result: Array = method_of_module(images, rngs=key if key is None else nnx.Rngs(key))
        return result

    features = functools.partial(call, "features") if tells_features else None
    return Model(init, functools.partial(call, "__call__"), features=features)
