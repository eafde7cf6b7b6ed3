"""The data pipeline: from image files or arrays to the examples of each client.

Public: `from_arrays` and the `ClientData` that it returns.
"""

from typing import TYPE_CHECKING

from fedjax_med import lazy

if TYPE_CHECKING:
    from fedjax_med.data.arrays import from_arrays as from_arrays
    from fedjax_med.data.client_data import ClientData as ClientData

__getattr__ = lazy(__name__, {"ClientData": "data.client_data", "from_arrays": "data.arrays"})
