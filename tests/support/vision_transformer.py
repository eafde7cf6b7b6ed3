"""DINOv2's vision transformer in NumPy, float64, and random weights under both kinds of names."""

import math

import numpy as np


def random_tensors(of, seed=0):
    """Weights named as Hugging Face names them."""
    rng, found = np.random.default_rng(seed), {}
    width, inner = of.width, of.width * of.expansion

    def dense(name, outputs, *inputs):
        found[f"{name}.weight"] = rng.normal(size=(outputs, *inputs)) / np.sqrt(np.prod(inputs))
        found[f"{name}.bias"] = rng.normal(0, 0.1, outputs)

    found["embeddings.cls_token"] = rng.normal(size=(1, 1, width))
    found["embeddings.mask_token"] = rng.normal(size=(1, width))
    found["embeddings.position_embeddings"] = rng.normal(size=(1, 1 + of.grid**2, width))
    dense("embeddings.patch_embeddings.projection", width, 3, of.patch, of.patch)
    for number in range(of.blocks):
        block = f"encoder.layer.{number}"
        for norm in ("norm1", "norm2"):
            found[f"{block}.{norm}.weight"] = rng.normal(1, 0.2, width)
            found[f"{block}.{norm}.bias"] = rng.normal(0, 0.2, width)
        for part in ("query", "key", "value"):
            dense(f"{block}.attention.attention.{part}", width, width)
        dense(f"{block}.attention.output.dense", width, width)
        dense(f"{block}.mlp.fc1", inner, width)
        dense(f"{block}.mlp.fc2", width, inner)
        for scale in ("layer_scale1", "layer_scale2"):
            found[f"{block}.{scale}.lambda1"] = rng.normal(size=width)
    found["layernorm.weight"], found["layernorm.bias"] = rng.normal(size=(2, width))
    return {name: value.astype(np.float32) for name, value in found.items()}


def timm_names(tensors):
    """The same tensors as timm and the authors name them, with queries, keys and values in one."""
    renamed = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    found = {}
    for name, value in tensors.items():
        if ".attention.attention.key" in name or ".attention.attention.value" in name:
            continue
        if ".attention.attention.query" in name:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            value = np.concatenate([tensors[part] for part in parts])
            name = name.replace("attention.attention.query", "attn.qkv")
        for old, new in renamed.items():
            name = name.replace(old, new)
        found[name] = value
    del found["embeddings.mask_token"]  # timm has none
    return found


def resized(table, rows, columns, offset=0.1):
    """torch's bicubic interpolation, by the scale factor (rows + offset) / side, pixel by pixel."""
    side = table.shape[0]
    if rows == columns == side:
        return table

    def weights(t):
        a = -0.75

        def near(x):
            return ((a + 2) * x - (a + 3)) * x * x + 1

        def far(x):
            return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

        return far(t + 1), near(t), near(1 - t), far(2 - t)

    out = np.zeros((rows, columns, table.shape[-1]))
    for row in range(rows):
        for column in range(columns):
            y = (row + 0.5) / ((rows + offset) / side) - 0.5
            x = (column + 0.5) / ((columns + offset) / side) - 0.5
            top, left = math.floor(y), math.floor(x)
            for i, down in enumerate(weights(y - top)):
                for j, right in enumerate(weights(x - left)):
                    at = np.clip([top - 1 + i, left - 1 + j], 0, side - 1)
                    out[row, column] += down * right * table[at[0], at[1]]
    return out


def layers(tensors, of, images):
    """Class token, and the mean and the deviation of the patches, after each block: 3 [B, C]."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def dense(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    def attention(x, name):
        size = of.width // of.heads
        parts = {p: dense(x, f"{name}.attention.{p}") for p in ("query", "key", "value")}
        out = []
        for head in range(of.heads):
            q, k, v = (parts[p][..., head * size : (head + 1) * size] for p in parts)
            scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(size))
            out.append(scores / scores.sum(-1, keepdims=True) @ v)
        return dense(np.concatenate(out, -1), f"{name}.output.dense")

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    side = of.patch
    rows, columns = images.shape[1] // side, images.shape[2] // side
    weight = t["embeddings.patch_embeddings.projection.weight"]  # [C, 3, side, side]
    patches = np.zeros((len(images), rows, columns, of.width))
    for row in range(rows):
        for column in range(columns):
            box = images[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            patches[:, row, column] = np.einsum("bijc,ocij->bo", box, weight)
    patches += t["embeddings.patch_embeddings.projection.bias"]
    table = t["embeddings.position_embeddings"][0]
    patches += resized(table[1:].reshape(of.grid, of.grid, -1), rows, columns)
    first = np.broadcast_to(t["embeddings.cls_token"][0] + table[0], (len(images), 1, of.width))
    x, found = np.concatenate([first, patches.reshape(len(images), -1, of.width)], 1), []
    for number in range(of.blocks):
        block = f"encoder.layer.{number}"
        x = x + t[f"{block}.layer_scale1.lambda1"] * attention(
            norm(x, f"{block}.norm1"), f"{block}.attention"
        )
        hidden = gelu(dense(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + t[f"{block}.layer_scale2.lambda1"] * dense(hidden, f"{block}.mlp.fc2")
        found.append((x[:, 0], x[:, 1:].mean(1), x[:, 1:].std(1)))
    return found
