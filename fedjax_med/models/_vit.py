"""Vision transformers (Dosovitskiy et al., ICLR 2021) as DINOv2 trained them (Oquab et al., 2024).

Pre-norm blocks with LayerScale (Touvron et al., ICCV 2021), a class token, learned positions, no
register tokens. They learned without labels, and their tokens describe images of many kinds.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_med.core.model import Model, Tensors
from fedjax_med.core.types import Array, Params
from fedjax_med.models import _pooling, from_nnx
from fedjax_med.models.pretrained.batch_norm_folding import tensor

_CUBIC = -0.75  # Keys's parameter, torch's
_OFFSET = 0.1  # patches by which DINOv2 enlarges the table of positions too much, and then cuts

_NORM = {"scale": "weight", "bias": "bias"}  # torch's names


class Size(NamedTuple):
    """A size of the network, and the layers whose tokens are taken."""

    name: str
    width: int
    blocks: int
    heads: int
    taken: tuple[int, ...] = (6, 9, 11, 12)  # counted from 1
    patch: int = 14  # pixels
    grid: int = 37  # side of the table of positions, in patches
    expansion: int = 4  # of the hidden layer of each block


SMALL = Size("dinov2_small", 384, 12, 6)
BASE = Size("dinov2_base", 768, 12, 12)


class Block(nnx.Module):
    """Attention, then a layer for each token; each takes normalised tokens and adds to them."""

    def __init__(self, of: Size, rngs: nnx.Rngs):
        width, inner = of.width, of.width * of.expansion
        self.heads = of.heads
        self.norm1, self.norm2 = _norm(width, rngs), _norm(width, rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.output = nnx.Linear(width, width, rngs=rngs)
        self.fc1 = nnx.Linear(width, inner, rngs=rngs)
        self.fc2 = nnx.Linear(inner, width, rngs=rngs)
        self.scale1, self.scale2 = nnx.Param(jnp.ones(width)), nnx.Param(jnp.ones(width))

    def _attend(self, tokens: Array) -> Array:
        split = (*tokens.shape[:2], self.heads, -1)
        query, key, value = (
            layer(tokens).reshape(split) for layer in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(query.shape[-1]), key)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        result: Array = self.output(mixed.reshape(tokens.shape))
        return result

    def __call__(self, tokens: Array) -> Array:
        """Apply it to tokens [B, N, C]."""
        tokens = tokens + self.scale1[...][None, None] * self._attend(self.norm1(tokens))
        hidden = jax.nn.gelu(self.fc1(self.norm2(tokens)), approximate=False)
        result: Array = tokens + self.scale2[...][None, None] * self.fc2(hidden)
        return result


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance loses digits where few channels are large, as they are here.
    return nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, rngs=rngs)


class Layers(nnx.Module):
    """The network up to the last layer that is taken; the norm after its blocks is left out."""

    def __init__(self, of: Size, channels: int, rngs: nnx.Rngs):
        self.of = of
        self.cls_token = nnx.Param(jnp.zeros(of.width))
        table = nnx.initializers.normal(0.02)(rngs.params(), (1 + of.grid**2, of.width))
        self.positions = nnx.Param(table)
        self.patches = nnx.Linear(of.patch**2 * channels, of.width, rngs=rngs)
        for number in range(max(of.taken)):
            setattr(self, f"block_{number}", Block(of, rngs))

    def _tokens(self, images: Array) -> Array:
        """Cut images [B, H, W, ch] into patches, without what is left over: tokens [B, N, C]."""
        batch, height, width, channels = images.shape
        side = self.of.patch
        rows, columns = height // side, width // side
        cut = images[:, : rows * side, : columns * side]
        cut = cut.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
        patches = self.patches(cut.reshape(batch, rows * columns, -1))
        table = self.positions[...]
        first = jnp.broadcast_to(self.cls_token[...] + table[0], (batch, 1, self.of.width))
        return jnp.concatenate([first, patches + resized(table[1:], rows, columns)[None]], axis=1)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Give class token, mean and deviation of the patches, layer by layer: [B, D]."""
        del rngs
        tokens, found = self._tokens(images), []
        for number in range(max(self.of.taken)):
            tokens = getattr(self, f"block_{number}")(tokens)
            if number + 1 in self.of.taken:
                found += [tokens[:, 0], _pooling.moments(tokens[:, 1:])]
        return jnp.concatenate(found, axis=-1)


def resized(table: Array, rows: int, columns: int) -> Array:
    """Interpolate a square table of positions bicubically, as DINOv2 does (without antialiasing).

    Args:
        table: [side * side, C].
        rows: of the result.
        columns: of the result.

    Returns:
        [rows * columns, C].
    """
    side = math.isqrt(table.shape[0])
    if rows == columns == side:
        return table
    square = table.reshape(side, side, -1)
    down, right = _cubic(side, rows), _cubic(side, columns)
    found = jnp.einsum("ri,cj,ijd->rcd", down, right, square, precision="highest")
    return found.reshape(rows * columns, -1)


def _cubic(side: int, wanted: int) -> Array:
    """Compute the matrix [wanted, side] of cubic interpolation; the edges repeat (Keys, 1981)."""
    rows = []
    for place in range(wanted):
        at = (place + 0.5) * side / (wanted + _OFFSET) - 0.5
        row = [0.0] * side
        for source in range(math.floor(at) - 1, math.floor(at) + 3):
            row[min(max(source, 0), side - 1)] += _kernel(abs(at - source))
        rows.append(row)
    return jnp.array(rows)


def _kernel(distance: float) -> float:
    x = distance
    if x <= 1:
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC if x < 2 else 0.0


def _names(timm: bool, block: str) -> dict[str, str]:
    """Map the layers of a block to their names in a file, which begin with `block`."""
    if timm:
        attention = dict.fromkeys(("query", "key", "value"), "attn.qkv")
        scales = {"scale1": "ls1.gamma", "scale2": "ls2.gamma"}
        names = attention | scales | {"output": "attn.proj"}
    else:
        attention = {name: f"attention.attention.{name}" for name in ("query", "key", "value")}
        scales = {"scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}
        names = attention | scales | {"output": "attention.output.dense"}
    names |= {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    return {layer: f"{block}.{name}" for layer, name in names.items()}


def pretrained(tensors: Tensors, params: Params) -> Params:
    """Load the weights of DINOv2 into `params`, from ``init``.

    Args:
        tensors: named as in Hugging Face's ``facebook/dinov2-small``, or as in timm's
            ``vit_small_patch14_dinov2.lvd142m``, which are the names of the authors, too.
        params: for the shapes.

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    timm = "cls_token" in tensors
    start = "" if timm else "embeddings."
    table = "pos_embed" if timm else "embeddings.position_embeddings"
    patches = "patch_embed.proj" if timm else "embeddings.patch_embeddings.projection"
    made: Params = {
        "cls_token": _plain(tensors, f"{start}cls_token", params["cls_token"], (1, 1)),
        "positions": _plain(tensors, table, params["positions"], (1,)),
        "patches": _patches(tensors, patches, params["patches"]),
    }
    for name in params.keys() - made.keys():
        number = name.removeprefix("block_")
        names = _names(timm, f"{'blocks' if timm else 'encoder.layer'}.{number}")
        made[name] = {
            layer: _layer(tensors, names[layer], layer, own) for layer, own in params[name].items()
        }
    return made


def _plain(tensors: Tensors, name: str, param: Array, lead: tuple[int, ...] = ()) -> Array:
    return jnp.asarray(tensor(tensors, name, (*lead, *param.shape)).astype("float32")).reshape(
        param.shape
    )


def _patches(tensors: Tensors, name: str, params: Params) -> Params:
    """Return the convolution that cuts patches as a layer of their values, row by row."""
    values, width = params["kernel"].shape
    side = math.isqrt(values // 3)
    weight = tensor(tensors, f"{name}.weight", (width, 3, side, side)).transpose(2, 3, 1, 0)
    kernel = jnp.asarray(weight.reshape(values, width).astype("float32"))
    return {"kernel": kernel, "bias": _plain(tensors, f"{name}.bias", params["bias"])}


def _layer(tensors: Tensors, name: str, layer: str, params: Params) -> Params:
    """Return a layer of a block; of timm's queries, keys and values in one, the part that it is."""
    if not isinstance(params, dict):
        return _plain(tensors, name, params)
    if "scale" in params:
        return {of: _plain(tensors, f"{name}.{end}", params[of]) for of, end in _NORM.items()}
    inputs, outputs = params["kernel"].shape
    parts = ("query", "key", "value") if name.endswith(".qkv") else (layer,)
    own = slice(outputs * parts.index(layer), outputs * (parts.index(layer) + 1))
    weight = tensor(tensors, f"{name}.weight", (outputs * len(parts), inputs))[own].T
    bias = tensor(tensors, f"{name}.bias", (outputs * len(parts),))[own]
    return {of: jnp.asarray(v.astype("float32")) for of, v in (("kernel", weight), ("bias", bias))}


def layers(of: Size) -> tuple[Model, int]:
    """Build the model whose ``apply`` gives the tokens of its layers [B, D], and D."""

    def make(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return Layers(of, channels, rngs)

    model = from_nnx(make, of.patch, "give larger images (image_size)")
    return model._replace(pretrained=pretrained), 3 * of.width * len(of.taken)
