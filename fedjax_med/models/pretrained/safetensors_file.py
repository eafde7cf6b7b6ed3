"""Files of safetensors, which hold names, shapes and numbers, and nothing that could run."""

from pathlib import Path

import numpy as np

from fedjax_med.core.model import Tensors
from fedjax_med.errors import UserError, printable
from fedjax_med.files import open_regular, unreadable
from fedjax_med.models.pretrained import torch_file

_LARGEST = float(np.finfo(np.float32).max)
_HEADER = 2**22  # bytes of safetensors' names and shapes: enough for 10,000 tensors


def check_finite(file: Path, tensors: Tensors) -> None:
    """Refuse tensors of a file that hold values other than finite real numbers.

    Raises:
        UserError: The message names the first one.
    """
    for name, values in tensors.items():
        # NumPy has no kind for bfloat16.
        if values.dtype.kind not in "iuf" and values.dtype.name != "bfloat16":
            raise UserError(
                f"{file}: expected real numbers, got {values.dtype} in {printable(repr(name))}: "
                "convert it to float32, or leave it out."
            )
        # Written so that NaN, for which every comparison is false, does not pass.
        if values.size and not -_LARGEST <= float(values.min()) <= float(values.max()) <= _LARGEST:
            raise UserError(
                f"{file}: {printable(repr(name))} holds what is no finite float32 (NaN, infinite "
                "or above 3.4e38): its training failed, or it is damaged; give another file."
            )


def read_safetensors(file: Path) -> Tensors:
    """Read the tensors of a file of safetensors.

    Raises:
        UserError: The package safetensors is not installed, or the file cannot be read.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            f'{file}: reading safetensors needs pip install "fedjax_med[pretrained]", or in a '
            'clone .venv/bin/pip install -e ".[pretrained]".'
        ) from error
    try:
        with open_regular(file, torch_file.LIMIT) as stream:
            # Parsing takes ten times the header's size, and the format allows 100 MB.
            if int.from_bytes(stream.read(8), "little") > _HEADER:
                raise ValueError(f"expected at most {_HEADER:,} bytes of names and shapes")
            return safetensors.numpy.load_file(file)
    except OSError as error:
        raise unreadable(file, error, "Give a file of weights.") from error
    except (ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # of safetensors, and of NumPy for unsupported shapes and types
        raise UserError(
            f"{file} does not read as safetensors ({type(error).__name__}: "
            f"{printable(str(error), 200)}): expected tensors of F16, BF16, F32, F64 or whole "
            "numbers; get it anew, and whole."
        ) from error
