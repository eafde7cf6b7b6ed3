"""The secret from which a private run draws its noise, kept in its workdir.

From it follows another secret for each experiment and data set, so that no two runs share noise:
where they do, the difference of their models is what they learned of the images, without any.
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
from fedjax_med.experiment import privacy_plan
from fedjax_med.experiment.config import Experiment, to_dict
from fedjax_med.files import open_regular, replacing
from fedjax_med.models.pretrained import weights
from fedjax_med.run.provenance import refuse_other, run_digest
from fedjax_med.run.workdir import read_workdir

NAME = "noise_key"
_BYTES = 32
_LIMIT = 4096  # bytes of the file, which has 65


def secret(workdir: Path, started: bool) -> str:
    """Give the workdir's secret, 64 hexadecimal digits; on the disk before it is used.

    Args:
        workdir: of the run; the file in it is for its owner alone.
        started: whether rounds are done already, whose noise came from it.

    Raises:
        UserError: It is missing, though rounds are done; it is damaged, is no regular file, or
            others can read it; or it cannot be written.
    """
    file = workdir / NAME
    with contextlib.suppress(FileNotFoundError):
        return _read(file)
    if started:
        raise UserError(
            f"expected {file}, the secret that the noise of the rounds before came from, and it is "
            "missing. Restore it, or choose another --workdir."
        )
    # Of two processes one makes it, and both read it.
    with replacing(file, 0o600, stays=True) as temporary:
        temporary.write_text(secrets.token_hex(_BYTES) + "\n", "ascii")
    try:
        return _read(file)
    except FileNotFoundError as error:  # a link to nothing
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
    """Whether others than this user can read a file."""
    mine = os.geteuid() if hasattr(os, "geteuid") else found.st_uid
    return bool(found.st_mode & 0o077) or found.st_uid != mine


def _has_modes(folder: Path) -> bool:
    """Try whether files in `folder` can be for this user alone: not on Windows, nor on FAT."""
    try:
        with tempfile.TemporaryFile(dir=folder) as made:  # of mode 600, and without a name
            return not _is_open(os.fstat(made.fileno()))
    except OSError:
        return True


def derive(text: str, run: str) -> str:
    """Derive the secret of one run, 64 hexadecimal digits, from its workdir's (HMAC-SHA256).

    Args:
        text: from `secret`.
        run: what makes it the run that it is (`fedjax_med.run.provenance.run_digest`).
    """
    return hmac.digest(bytes.fromhex(text), b"fedjax_med run " + run.encode(), "sha256").hex()


def of_run(workdir: Path, saved: dict[str, Any], given: dict[str, Any]) -> tuple[str, str]:
    """Give the secret of the run, and the digest of what makes it the run that it is.

    A run that goes on keeps the digest that it began with, which another version of the package
    may tell otherwise; whoever restores the checkpoint sees to it that it is of this run.

    Args:
        workdir: of the run.
        saved: the identity of its last checkpoint, or {}.
        given: that of this run, with what is said of privacy.

    Raises:
        UserError: As `secret` does; the workdir holds another experiment and no secret; or the
            first weights do not read.
    """
    # A checkpoint has its own weights; where the first ones lie is then no matter.
    first = "" if saved else given["experiment"]["pretrained"]
    run = str(saved.get("noise") or run_digest(given, weights.digest(first)))
    records, file = workdir / "metrics.jsonl", workdir / "experiment.json"
    begun = bool(saved) or (records.exists() and records.stat().st_size > 0)
    if begun and file.exists() and not (workdir / NAME).exists():
        # Another experiment may never have had a secret, and then none can be restored.
        refuse_other(workdir, read_workdir(workdir), given)
    return derive(secret(workdir, begun), run), run


def means(
    experiment: Experiment,
    promise: privacy_plan.Promise | None,
    workdir: Path,
    last: Callable[[], dict[str, Any]],
    data: str,
) -> privacy_plan.Means | None:
    """The noise of a run, and the secret that it is drawn from, the same in every process.

    Args:
        experiment: completed.
        promise: its promise; None where nothing is.
        workdir: of the run.
        last: gives the identity of its last checkpoint, or {}.
        data: the digest of the clients' data.
    """
    if promise is None:
        return None
    if experiment.privacy.noise_from != "secret":
        return privacy_plan.Means(promise.account.noise_multiplier)

    def secret_and_run() -> str:
        given = {"experiment": to_dict(experiment), "data": data, **privacy_plan.tag(promise, 0)}
        return " ".join(of_run(workdir, last(), given))

    return privacy_plan.Means(
        promise.account.noise_multiplier, *multihost.text_from_main(secret_and_run).split(" ", 1)
    )
