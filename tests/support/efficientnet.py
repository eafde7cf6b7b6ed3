"""EfficientNet-Lite in NumPy, float64, batch normalisation unfolded, and random weights for it."""

import numpy as np

EPSILON = 1e-3


def random_tensors(stages, seed=0, classes=4, stem=32, head=1280):
    """Weights named as lukemelas's EfficientNet-PyTorch names them.

    `stages`: (expansion, side, stride, channels, blocks) each.
    """
    rng, found = np.random.default_rng(seed), {}

    def layer(conv, norm, side, inputs, outputs):
        scale = np.sqrt(2 / (side * side * inputs))
        found[f"{conv}.weight"] = scale * rng.normal(size=(outputs, inputs, side, side))
        found[f"{norm}.weight"] = rng.uniform(0.5, 1.0, outputs)
        found[f"{norm}.bias"] = rng.normal(0, 0.1, outputs)
        found[f"{norm}.running_mean"] = rng.normal(0, 0.1, outputs)
        found[f"{norm}.running_var"] = rng.uniform(0.5, 1.0, outputs)

    layer("_conv_stem", "_bn0", 3, 3, stem)
    width, number = stem, 0
    for expansion, side, _, channels, blocks in stages:
        for _ in range(blocks):
            name, inner = f"_blocks.{number}.", width * expansion
            if expansion > 1:
                layer(f"{name}_expand_conv", f"{name}_bn0", 1, width, inner)
            layer(f"{name}_depthwise_conv", f"{name}_bn1", side, 1, inner)
            layer(f"{name}_project_conv", f"{name}_bn2", 1, inner, channels)
            width, number = channels, number + 1
    layer("_conv_head", "_bn1", 1, width, head)
    found["_fc.weight"] = rng.normal(size=(classes, head))
    found["_fc.bias"] = rng.normal(size=classes)
    return {name: value.astype(np.float32) for name, value in found.items()}


def timm_names(tensors, stages):
    """The same tensors as timm names them."""
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    places = [(s, r) for s, stage in enumerate(stages) for r in range(stage[4])]

    def renamed(name):
        first, rest = name.split(".", 1)
        if first != "_blocks":
            return f"{(outside | {'_fc': 'classifier'})[first]}.{rest}"
        number, layer, kind = rest.split(".")
        stage, repeat = places[int(number)]
        layers = ["_depthwise_conv", "_project_conv"]
        convs, norms = ["conv_dw", "conv_pw"], ["_bn1", "_bn2"]
        if stages[stage][0] > 1:
            layers, norms = ["_expand_conv", *layers], ["_bn0", *norms]
            convs = ["conv_pw", "conv_dw", "conv_pwl"]
        place = (layers if layer in layers else norms).index(layer)
        new = convs[place] if layer in layers else f"bn{place + 1}"
        return f"blocks.{stage}.{repeat}.{new}.{kind}"

    return {renamed(name): value for name, value in tensors.items()}


def _convolve(images, weight, stride):
    """TensorFlow's padding "SAME"; one group, or one for each channel where weight is [C, 1,..]."""
    outputs, inputs, side, _ = weight.shape
    pads = []
    for size in images.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + side - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # [B, H, W, C, side, side]
    if inputs == 1 and outputs == images.shape[-1]:
        return np.einsum("bhwcij,cij->bhwc", windows, weight[:, 0], optimize=True)
    return np.einsum("bhwcij,ocij->bhwo", windows, weight, optimize=True)


def feature_maps(tensors, stages, images):
    """The output [B, h, w, C] of every block, of normalised images [B, H, W, 3]."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def layer(x, conv, norm, stride=1):
        x = _convolve(x, t[f"{conv}.weight"], stride) - t[f"{norm}.running_mean"]
        x = x / np.sqrt(t[f"{norm}.running_var"] + EPSILON)
        return x * t[f"{norm}.weight"] + t[f"{norm}.bias"]

    def relu6(x):
        return np.clip(x, 0, 6)

    x, maps = relu6(layer(images.astype(np.float64), "_conv_stem", "_bn0", 2)), []
    for expansion, _, stride, _, blocks in stages:
        for repeat in range(blocks):
            name, before = f"_blocks.{len(maps)}.", x
            if expansion > 1:
                x = relu6(layer(x, f"{name}_expand_conv", f"{name}_bn0"))
            step = 1 if repeat else stride
            x = relu6(layer(x, f"{name}_depthwise_conv", f"{name}_bn1", step))
            x = layer(x, f"{name}_project_conv", f"{name}_bn2")
            x = x + before if step == 1 and x.shape == before.shape else x
            maps.append(x)
    return maps


def moments(maps):
    """Mean and deviation of each channel, map by map: [B, D]."""
    parts = []
    for one in maps:
        flat = one.reshape(len(one), -1, one.shape[-1])
        mean = flat.sum(1) / flat.shape[1]
        parts += [mean, np.sqrt(((flat - mean[:, None]) ** 2).sum(1) / flat.shape[1])]
    return np.concatenate(parts, axis=1)
