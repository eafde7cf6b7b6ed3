"""The secret from which a private run draws its noise, kept in its workdir.

A separate secret is derived from it for each experiment and data set, so that no two runs share
noise: otherwise the difference of their models would show what they learned, free of noise.
"""

import contextlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError
from fedjax_med.execution import multihost
from fedjax_med.experiment.config import Experiment, to_dict
from fedjax_med.files import open_regular, replacing
from fedjax_med.models.pretrained import weights
from fedjax_med.privacy.plan import NoiseSource, PrivacyPlan, to_json
from fedjax_med.run.provenance import refuse_other, run_digest
from fedjax_med.run.workdir import read_workdir

NAME = "noise_key"
CHECK = "noise check"  # the entry of a checkpoint's identity by which a changed secret is noticed
_BYTES = 32
_LIMIT = 4096  # bytes; the file has 65


def secret(workdir: Path, started: bool) -> str:
    """Read or create the workdir's secret, 64 hexadecimal digits; it is on disk before use.

    Args:
        workdir: of the run; only its owner can read the secret's file.
        started: whether rounds are done already, whose noise came from it.

    Raises:
        UserError: It is missing though rounds are done, is damaged, is not a regular file, is
            readable by others, or cannot be written.
    """
    file = workdir / NAME
    with contextlib.suppress(FileNotFoundError):
        return _read(file)
    if started:
        raise UserError(
            f"expected {file}, the secret that the noise of the rounds before came from, and it is "
            "missing. Restore it, or choose another --workdir."
        )
    # If two processes race, one creates the file and both read it.
    with replacing(file, 0o600, stays=True) as temporary:
        temporary.write_text(secrets.token_hex(_BYTES) + "\n", "ascii")
    try:
        return _read(file)
    except FileNotFoundError as error:  # a dangling link
        raise UserError(_unreadable(file, error)) from error


def _read(file: Path) -> str:
    try:
        with open_regular(file, _LIMIT) as stream:
            found = os.fstat(stream.fileno())
            text = stream.read(_LIMIT).decode("ascii", "replace").strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(_unreadable(file, error)) from error
    if not re.fullmatch(f"[0-9a-f]{{{2 * _BYTES}}}", text):
        raise UserError(
            f"{file} is damaged: expected {2 * _BYTES} hexadecimal digits. Restore it, or "
            "choose another --workdir."
        )
    if _is_open(found) and _has_modes(file.parent):
        raise UserError(
            f"expected {file}, the secret of a private run, to be this user's and for its owner "
            f"alone, got user {found.st_uid} and the mode {stat.S_IMODE(found.st_mode):o}. If "
            f"nobody has read it, give chmod 600 {file}; else its noise is known and protects "
            "nothing: begin anew in another --workdir."
        )
    return text


def _unreadable(file: Path, error: OSError) -> str:
    return (
        f"{file}, the secret that the noise comes from, cannot be read ({error.strerror or error})."
        " Restore it, or choose another --workdir."
    )


def _is_open(found: os.stat_result) -> bool:
    """Return whether a file is accessible to, or owned by, anyone but this user."""
    mine = os.geteuid() if hasattr(os, "geteuid") else found.st_uid
    return bool(found.st_mode & 0o077) or found.st_uid != mine


def _has_modes(folder: Path) -> bool:
    """Check whether files in `folder` can be private to this user: not on Windows or FAT."""
    try:
        with tempfile.TemporaryFile(dir=folder) as made:  # has mode 600 and no name
            return not _is_open(os.fstat(made.fileno()))
    except OSError:
        return True


def derive(text: str, run: str) -> str:
    """Derive the secret of one run, 64 hexadecimal digits, from the workdir's (HMAC-SHA256).

    Args:
        text: the workdir's secret, from `secret`.
        run: the digest that identifies the run (`fedjax_med.run.provenance.run_digest`).
    """
    return hmac.digest(bytes.fromhex(text), b"fedjax_med run " + run.encode(), "sha256").hex()


def check(text: str) -> str:
    """Return 16 hexadecimal digits by which a secret is recognised, and which tell nothing of it.

    Args:
        text: the secret of a run, from `derive`.
    """
    return hmac.digest(bytes.fromhex(text), b"fedjax_med check", "sha256").hex()[:16]


def of_run(
    workdir: Path, saved: dict[str, Any], given: dict[str, Any], networks: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Return the secret of the run, and the digest that identifies the run.

    A resumed run keeps the digest that it began with, which another version of the package may
    compute differently; restoring the checkpoint verifies that it is of this run.

    Args:
        workdir: of the run.
        saved: the identity of its last checkpoint, or {}.
        given: the identity of this run, with its privacy entry.
        networks: the pretrained networks of the model.

    Raises:
        UserError: As `secret` does; the secret is not the one that the run began with; the workdir
            holds another experiment and no secret; or the first weights cannot be read.
    """
    # A checkpoint has its own weights; the location of the first ones does not matter then.
    first = "" if saved else given["experiment"]["pretrained"]
    run = str(saved.get("noise") or run_digest(given, weights.digest(first, networks)))
    records, file = workdir / "metrics.jsonl", workdir / "experiment.json"
    begun = bool(saved) or (records.exists() and records.stat().st_size > 0)
    if begun and file.exists() and not (workdir / NAME).exists():
        # Another experiment may never have had a secret, so do not ask the user to restore it.
        refuse_other(workdir, read_workdir(workdir), given)
    text = derive(secret(workdir, begun), run)
    if saved.get(CHECK, check(text)) != check(text):  # earlier versions have no such entry
        raise UserError(
            f"{workdir / NAME} is not the secret that the noise of the rounds before came from: it "
            "has been changed or damaged. Restore it, or choose another --workdir."
        )
    return text, run


def noise_source(
    experiment: Experiment,
    privacy: PrivacyPlan | None,
    workdir: Path,
    last: Callable[[], dict[str, Any]],
    data: str,
    networks: tuple[str, ...] = (),
) -> NoiseSource | None:
    """Return the source of a run's noise, equal in all processes; None: the experiment's seed.

    Args:
        experiment: completed.
        privacy: its plan; None without a guarantee.
        workdir: of the run.
        last: returns the identity of the last checkpoint, or {}.
        data: the digest of the clients' data.
        networks: the pretrained networks of the model.
    """
    if privacy is None or experiment.privacy.noise_from != "secret":
        return None

    def secret_and_run() -> str:
        given = {"experiment": to_dict(experiment), "data": data, **to_json(privacy, 0)}
        return " ".join(of_run(workdir, last(), given, networks))

    return NoiseSource(*multihost.text_from_main(secret_and_run).split(" ", 1))
