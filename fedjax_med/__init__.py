"""Federated learning for medical images in JAX.

The public names are those listed here, the ``build`` of every component, what the subpackages' own
lists export (`fedjax_med.client`, `fedjax_med.data`, ...), and the classes of config files
(`fedjax_med.experiment.config`). Everything else is private and may change in any release;
docs/api.md has the rules. Names are imported on first use.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_med import aggregators as aggregators
    from fedjax_med import algorithms as algorithms
    from fedjax_med import attacks as attacks
    from fedjax_med import client as client
    from fedjax_med import cohorts as cohorts
    from fedjax_med import data as data
    from fedjax_med import models as models
    from fedjax_med import privacy as privacy
    from fedjax_med import transforms as transforms
    from fedjax_med.client.local_training import LocalTrainer as LocalTrainer
    from fedjax_med.core.aggregation import Aggregator as Aggregator
    from fedjax_med.core.aggregation import ClientInfo as ClientInfo
    from fedjax_med.core.aggregation import MessageTransform as MessageTransform
    from fedjax_med.core.aggregation import chain as chain
    from fedjax_med.core.algorithm import ClientOutput as ClientOutput
    from fedjax_med.core.algorithm import FederatedAlgorithm as FederatedAlgorithm
    from fedjax_med.core.algorithm import FederatedState as FederatedState
    from fedjax_med.core.algorithm import Traits as Traits
    from fedjax_med.core.algorithm import client_output as client_output
    from fedjax_med.core.faults import Attack as Attack
    from fedjax_med.core.faults import Faults as Faults
    from fedjax_med.core.faults import Participation as Participation
    from fedjax_med.core.model import Model as Model
    from fedjax_med.core.model import Statistics as Statistics
    from fedjax_med.core.process import Process as Process
    from fedjax_med.core.round import RoundBatch as RoundBatch
    from fedjax_med.core.types import Examples as Examples
    from fedjax_med.errors import UserError as UserError
    from fedjax_med.evaluation.evaluate import evaluate as evaluate
    from fedjax_med.execution.rounds import RoundResult as RoundResult
    from fedjax_med.execution.simulation import Simulation as Simulation
    from fedjax_med.execution.statistics import take_statistics as take_statistics
    from fedjax_med.experiment.config import Experiment as Experiment
    from fedjax_med.experiment.config import Spec as Spec
    from fedjax_med.experiment.config_file import read as load_config  # noqa: F401
    from fedjax_med.run.library import Run as Run
    from fedjax_med.run.library import evaluate_run as evaluate_run
    from fedjax_med.run.library import train as train

__version__ = "0.1.0"

_HOMES = {
    "Aggregator": "core.aggregation",
    "Attack": "core.faults",
    "ClientInfo": "core.aggregation",
    "ClientOutput": "core.algorithm",
    "Examples": "core.types",
    "Experiment": "experiment.config",
    "Faults": "core.faults",
    "FederatedAlgorithm": "core.algorithm",
    "FederatedState": "core.algorithm",
    "LocalTrainer": "client.local_training",
    "MessageTransform": "core.aggregation",
    "Model": "core.model",
    "Participation": "core.faults",
    "Process": "core.process",
    "RoundBatch": "core.round",
    "RoundResult": "execution.rounds",
    "Run": "run.library",
    "Simulation": "execution.simulation",
    "Spec": "experiment.config",
    "Statistics": "core.model",
    "Traits": "core.algorithm",
    "UserError": "errors",
    "chain": "core.aggregation",
    "client_output": "core.algorithm",
    "evaluate": "evaluation.evaluate",
    "evaluate_run": "run.library",
    "load_config": "experiment.config_file:read",
    "take_statistics": "execution.statistics",
    "train": "run.library",
}
_SUBPACKAGES = (
    *("aggregators", "algorithms", "attacks", "client", "cohorts"),
    *("data", "models", "privacy", "transforms"),
)
__all__ = [*_HOMES, *_SUBPACKAGES]


def lazy(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """Build the ``__getattr__`` of a package (PEP 562), which imports a name on first use.

    Args:
        package: the package's name; names that are not in `homes` are its modules.
        homes: from a name to the module of `fedjax_med` that defines it, with ``:other`` if it
            is called otherwise there.
    """

    def get(name: str) -> Any:
        if name in homes:
            module, _, other = homes[name].partition(":")
            return getattr(importlib.import_module(f"fedjax_med.{module}"), other or name)
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(_missing(package, homes, name)) from None

    return get


def _missing(package: str, homes: dict[str, str], name: str) -> str:
    """Say that `package` has no `name`, and suggest the nearest name that it has."""
    import difflib
    import pkgutil

    files = (file.name for file in pkgutil.iter_modules(importlib.import_module(package).__path__))
    known = [*homes, *(file for file in files if not file.startswith("_"))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f". Did you mean: {near[0]!r}?" if near else ""
    return f"module {package!r} has no attribute {name!r}{hint}"


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
