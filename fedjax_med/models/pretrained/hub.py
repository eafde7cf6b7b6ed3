"""Weights from the Hugging Face hub, pinned by the commit and by the SHA-256 of their file.

``hub:OWNER/NAME@COMMIT#sha256=HEX`` pins both. What the user does not pin is trusted on first use:
the commit and the checksum of the first download are recorded, and every later run asks for that
commit and compares.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from fedjax_med.errors import UserError, expand
from fedjax_med.files import read_object, read_regular, replacing, unreadable
from fedjax_med.models.pretrained import torch_file

_DEFAULT = "timm/tf_efficientnet_lite0.in1k"
_FILE = "model.safetensors"
_NAMED = re.compile(
    r"hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?:#sha256=([0-9a-f]{64}))?", re.ASCII | re.IGNORECASE
)
_COMMIT = re.compile("[0-9a-f]{40}")
_LIMIT = 2**16  # bytes of a record


class Pin(NamedTuple):
    """A file of weights on the hub."""

    repository: str
    revision: str  # the 40 digits of a commit; "": not pinned
    sha256: str  # of the file; "": not pinned


def parse(source: str, repository: str = "") -> Pin | None:
    """Read ``hub`` or ``hub:OWNER/NAME@COMMIT#sha256=HEX``; None for weights from elsewhere.

    Args:
        source: as the user gave it.
        repository: what ``hub`` means; empty: EfficientNet-Lite0's.

    Raises:
        UserError: It names no commit, or is of another form.
    """
    if source == "hub":
        return Pin(repository or _DEFAULT, "", "")
    if not source.startswith("hub:"):
        return None
    found = _NAMED.fullmatch(source)
    if not found:
        repository = source.removeprefix("hub:").partition("@")[0].partition("#")[0]
        raise UserError(
            f"--config.pretrained={source}: expected hub:OWNER/NAME@COMMIT, with all 40 "
            "hexadecimal digits of a commit (a branch or a tag may be moved), and if you like "
            "#sha256= and the 64 of its file: `git ls-remote "
            f"https://huggingface.co/{repository} HEAD` prints the newest commit."
        )
    repository, revision, sha256 = found.groups(default="")
    return Pin(repository, revision.lower(), sha256.lower())


def file(source: str, pin: Pin) -> Path:
    """Download the file of weights, or find it in the hub's cache, and compare its checksum.

    Args:
        source: as the user gave it, for the messages.
        pin: of `source`.

    Raises:
        UserError: The hub is unreachable, or the file is another than the one that was given or
            recorded.
    """
    record = _place(pin)
    known = _read(record)
    path = _downloaded(source, pin.repository, pin.revision or known.get("revision", ""))
    try:
        found = hashlib.sha256(read_regular(path, torch_file.LIMIT)).hexdigest()
    except OSError as error:
        raise unreadable(path, error, "Remove it, and give the same command again.") from error
    for expected, why in (
        (pin.sha256, "given"),
        (known.get("sha256", ""), f"recorded in {record}"),
    ):
        if expected not in ("", found):
            raise UserError(
                f"--config.pretrained={source}: {path} has the SHA-256 {found}, expected "
                f"{expected}, as {why}: the download is damaged or was replaced. Remove what is "
                "wrong, the file or the checksum, and give the same command again."
            )
    if not known:
        revision = pin.revision or next(filter(_COMMIT.fullmatch, reversed(path.parts)), "")
        content = {"repository": pin.repository, "file": _FILE, "revision": revision}
        with replacing(record, stays=True) as temporary:
            temporary.write_text(json.dumps({**content, "sha256": found}, indent=2) + "\n", "utf-8")
    return path


def recorded(source: str, repository: str = "") -> dict[str, str]:
    """Return what is recorded of `source`: repository, file, commit and SHA-256; {} if nothing.

    Args:
        source: as the user gave it.
        repository: as in `parse`.
    """
    pin = parse(source, repository)
    return _read(_place(pin)) if pin else {}


def _place(pin: Pin) -> Path:
    """Return the record of the first download of `pin`, by the XDG base directory specification."""
    given = os.environ.get("XDG_STATE_HOME", "")
    state = Path(given) if Path(given).is_absolute() else expand("~/.local/state")
    name = f"{pin.repository.replace('/', '--')}@{pin.revision or 'first'}.json"
    return state / "fedjax_med" / "hub" / name


def _read(record: Path) -> dict[str, str]:
    if not record.exists():
        return {}
    advice = "It records the first download: restore or remove it."
    known = read_object(record, _LIMIT, advice)
    if "sha256" not in known:
        raise unreadable(record, ValueError("expected an entry sha256"), advice)
    return {name: str(value) for name, value in known.items()}


def _downloaded(source: str, repository: str, revision: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            '--config.pretrained=hub needs huggingface_hub: pip install "fedjax_med[hub]", or in a '
            'clone .venv/bin/pip install -e ".[hub]".'
        ) from error
    try:
        wanted = {"revision": revision} if revision else {}
        return Path(hf_hub_download(repository, _FILE, **wanted))
    except Exception as error:  # many types: of HTTP, the hub, the cache folder
        raise UserError(
            f"--config.pretrained={source}: {_FILE} of {repository} could not be had from the hub "
            f"({' '.join(str(error).split())[:200]}). Without the internet give "
            "--config.pretrained=imagenet, or a file."
        ) from error
