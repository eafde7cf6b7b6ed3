"""The weights of a bundle, which `fedjax-med export` wrote, as the start of a run of its model.

What a bundle holds besides its weights, `fedjax_med.artifact` reads.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_med.core.model import Tensors
from fedjax_med.core.trees import name_of
from fedjax_med.core.types import Params
from fedjax_med.errors import UserError, expand, printable, some
from fedjax_med.files import open_regular, read_object, unreadable
from fedjax_med.models.pretrained import torch_file
from fedjax_med.models.pretrained.safetensors_file import check_finite, read_safetensors

FORMAT, VERSION = "fedjax_med bundle", 1
INFO, TENSORS = "bundle.json", "model.safetensors"
MODEL, FROZEN = "model", "frozen"  # the first part of a name: what is trained, and what is not
ADVICE = "Copy the bundle again, or export it anew with `fedjax-med export`."
LIMIT = 2**22  # bytes of bundle.json

_BLOCK = 2**20  # bytes read at a time


class Exported(NamedTuple):
    """The weights of a bundle, and the names of its classes."""

    folder: Path
    tensors: Tensors  # by name: ``model/PATH`` and ``frozen/PATH``
    class_names: tuple[str, ...]


def is_bundle(source: str) -> bool:
    """Tell whether ``--config.pretrained`` names the folder of a bundle."""
    return source not in ("", "imagenet", "hub") and (expand(source) / INFO).is_file()


def read(source: str) -> Exported:
    """Read the weights of the bundle in the folder `source`.

    Raises:
        UserError: It is of another version, or damaged.
    """
    folder = expand(source)
    info = versioned(folder)
    names, files = info.get("class_names"), info.get("files")
    if not isinstance(names, list) or not isinstance(files, dict):
        raise unreadable(folder / INFO, ValueError("it is not what `export` writes"), ADVICE)
    if digest(folder / TENSORS, torch_file.LIMIT) != files.get(TENSORS):
        raise damaged(folder / TENSORS)
    tensors = read_safetensors(folder / TENSORS)
    check_finite(folder / TENSORS, tensors)
    return Exported(folder, tensors, tuple(map(str, names)))


def versioned(folder: Path) -> dict[str, Any]:
    """Read the ``bundle.json`` of a bundle of this version.

    Raises:
        UserError: It cannot be read, or is of another version.
    """
    file = folder / INFO
    info = read_object(file, LIMIT, ADVICE)
    if info.get("format") != FORMAT or info.get("version") != VERSION:
        raise UserError(
            f"{file}: expected {FORMAT!r} of version {VERSION}, got "
            f"{str(info.get('format'))[:50]!r} of version {str(info.get('version'))[:20]}: use the "
            "version of fedjax_med that wrote it, or export it anew."
        )
    return info


def damaged(file: Path) -> UserError:
    """Build the error of a file whose SHA-256 is not that of the export."""
    return UserError(f"{file} is damaged or was changed after export. {ADVICE}")


def digest(file: Path, limit: int) -> str:
    """Compute the SHA-256 of a regular file of at most `limit` bytes.

    Raises:
        UserError: It cannot be read.
    """
    total = hashlib.sha256()
    try:
        with open_regular(file, limit) as stream:
            while block := stream.read(_BLOCK):
                total.update(block)
    except OSError as error:
        raise unreadable(file, error, ADVICE) from error
    return total.hexdigest()


def named(params: Params, part: str) -> dict[str, Any]:
    """Return the leaves of `params`, arrays or their shapes, by ``PART/PATH``.

    Raises:
        UserError: Two of them would have one name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {f"{part}/{name_of(path)}": leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        raise UserError(
            "two parameters of the model have one name where their paths are joined by '/': "
            "expected keys without '/' in the model's parameters."
        )
    return found


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in which tensor `found` differs from what is `wanted`; "" if in none."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"the tensor {printable(missing[0])} is missing ({len(missing)} in all)"
    if more := sorted(found.keys() - wanted.keys()):
        return f"the tensor {printable(more[0])} is not of this model ({len(more)} in all)"
    for name, one in wanted.items():
        given = found[name]
        if given.shape != one.shape or given.dtype != one.dtype:
            return (
                f"{printable(name)} is {given.dtype} {given.shape}, expected "
                f"{np.dtype(one.dtype)} {one.shape}"
            )
    return ""


def fill(exported: Exported, part: str, params: Params) -> Params:
    """Replace all of `params` by the tensors of a bundle.

    Args:
        exported: the bundle.
        part: ``model`` or ``frozen``.
        params: the first parameters, or their shapes.

    Raises:
        UserError: The bundle is of another model.
    """
    own = {name: one for name, one in exported.tensors.items() if name.startswith(f"{part}/")}
    if wrong := differing(own, named(params, part)):
        raise UserError(
            f"--config.pretrained={exported.folder} is a bundle of another model ({wrong}): give "
            "the network, its options and as many classes as it was trained with."
        )
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = [jax.numpy.asarray(own[f"{part}/{name_of(path)}"]) for path, _ in paths]
    return jax.tree.unflatten(structure, leaves)


def check_classes(source: str, class_names: Sequence[str]) -> None:
    """Refuse a bundle whose classes are not those of the data, in their order.

    Args:
        source: as in ``--config.pretrained``; what is no bundle has no classes.
        class_names: of the data.

    Raises:
        UserError: They differ.
    """
    if not is_bundle(source):
        return
    names = versioned(expand(source)).get("class_names")
    if names != list(class_names):
        given = some(map(str, names)) if isinstance(names, list) else "none"
        raise UserError(
            f"--config.pretrained={source} is a bundle of the classes {given}; the data have "
            f"{some(class_names)}: a bundle starts runs of the same classes."
        )
