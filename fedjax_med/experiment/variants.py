"""Variants of a config file's experiment: named changes of its fields, with measured results."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment.config import Experiment


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of an experiment.

    about: what it is, its paper, and options worth changing.
    changes: new values by dotted field, such as ``client.optimizer``.
    balanced_accuracy: measured on the test set.
    also: other measured results, by name.
    """

    about: str
    changes: Mapping[str, Any]
    balanced_accuracy: float
    also: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def expected(self) -> dict[str, float]:
        """Return all measured results by name."""
        return {"balanced_accuracy": self.balanced_accuracy, **self.also}


def choose(base: Experiment, variants: Mapping[str, Variant], name: str) -> Experiment:
    """Return the variant `name` of `base`; `base` itself if `name` is empty.

    Raises:
        UserError: There is no such variant, or it changes a field that does not exist.
    """
    if not name:
        return base
    check_name(name, variants, "the variants of the config file")
    return changed(base, variants[name].changes)


def changed(base: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return a copy of `base` with new values, by the dotted names of their fields.

    Raises:
        UserError: A field does not exist.
    """
    experiment = copy.deepcopy(base)
    for path, value in changes.items():
        *groups, last = path.split(".")
        holder, seen = experiment, "the experiment"
        for group in groups:
            _check_field(holder, group, seen)
            holder, seen = getattr(holder, group), group
        _check_field(holder, last, seen)
        setattr(holder, last, copy.deepcopy(value))
    return experiment


def _check_field(holder: Any, name: str, seen: str) -> None:
    """Refuse a field that `holder` does not have: setting it would have no effect."""
    if not dataclasses.is_dataclass(holder):
        raise UserError(f"{seen} of the experiment has no fields, and none that is called {name}.")
    check_name(name, [field.name for field in dataclasses.fields(holder)], seen)
