"""The secret from which a private run draws its noise, kept in its workdir."""

import hashlib
import re
import secrets
from pathlib import Path

from fedjax_med.errors import UserError
from fedjax_med.files import writing

NAME = "noise_key"
_BYTES = 32


def secret(workdir: Path, started: bool) -> str:
    """The run's secret, 64 hexadecimal digits; made once, before the first round.

    Args:
        workdir: of the run; the file in it is for its owner alone.
        started: whether rounds are done already, whose noise came from it.

    Raises:
        UserError: It is missing or damaged, though rounds are done, or it cannot be written.
    """
    file = workdir / NAME
    if file.exists():
        text = file.read_text("ascii", "replace").strip()
        if not re.fullmatch(f"[0-9a-f]{{{2 * _BYTES}}}", text):
            raise UserError(
                f"{file} is damaged: expected {2 * _BYTES} hexadecimal digits. Restore it, or "
                "choose another --workdir."
            )
        return text
    if started:
        raise UserError(
            f"expected {file}, the secret that the noise of the rounds before came from, and it is "
            "missing. Restore it, or choose another --workdir."
        )
    text = secrets.token_hex(_BYTES)
    with writing(file):
        # Whole or not at all, and never readable by others.
        temporary = file.with_name(f".{NAME}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(text + "\n", "ascii")
        temporary.replace(file)
    return text


def words_of(text: str) -> tuple[int, int]:
    """The two 32-bit words of a threefry key that follow from `text`.

    `jax.random.key` of a number would keep 32 bits of it only, few enough to try them all.
    """
    digest = hashlib.sha256(b"fedjax_med rounds " + text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
