"""Names of earlier versions: tables by which their files are read and their flags refused."""

import copy
import dataclasses
import functools
from typing import Any, TypeVar

from fedjax_med.errors import UserError, check_name

T = TypeVar("T")

# By their dotted names in the experiment, each under its name of then. What lies below a renamed
# field is renamed with it. A field that is renamed again gets a line more; the old one stays.
RENAMED = {
    "reducer": "aggregator",
    "turnout": "participation",
    "turnout.rate": "participation.participation_rate",
    "turnout.late": "participation.straggler_rate",
    "turnout.garbage": "participation.corruption_rate",
    "turnout.bad": "participation.on_invalid",
    "turnout.largest": "participation.max_update_norm",
    "hospital": "local_client",
    "average": "ema_decay",
    "views": "tta_views",
    "images": "image_storage",
}
# Values of a field, by its name of today, that were renamed.
VALUES = {"setting": {"pooled": "centralized"}}
# Options that the components of a field no longer have, and why they are not missed.
REMOVED = {"algorithm": {"fed_nova": {"momentum": "it is taken from the clients' optimizer"}}}
# Components of a field that are chosen otherwise now.
ELSEWHERE = {"aggregator": {"dp_mean": "--config.privacy.unit=client"}}
_LESIONS = (
    "adaptive_clip agnostic apfl backdoor bulyan cfl clip ditto dp_fed_avg dp_sgd fed_adagrad "
    "fed_adam fed_avgm fed_bn fed_dyn fed_nova fed_per fed_prox fed_rep fed_yogi gaussian_noise "
    "geometric_median ifca inner_product krum label_flip low_precision median moon "
    "norm_bounded_mean q_fair quantize random_k scaffold scaled_update top_k trimmed_mean"
)
# Config files that are a variant of a file beside them now.
CONFIG_FILES = {f"{name}.py": f"lesions.py:{name}" for name in _LESIONS.split()}
CONFIG_FILES["isic9_fast.py"] = "isic9_pretrained.py:fast"


def new_name(field: str) -> str | None:
    """Return today's dotted name of an old `field` or of a field below one; None if not old."""
    for old in sorted(RENAMED, key=len, reverse=True):
        if field == old or field.startswith((f"{old}.", f"{old}[")):
            new = RENAMED[old] + field.removeprefix(old)
            return new_name(new) or new
    return None


def why_removed(field: str, name: str, option: str) -> str | None:
    """Return why the component `name` of `field` no longer has `option`; None if it never had."""
    return REMOVED.get(field, {}).get(name, {}).get(option)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Return the `values` of an experiment that an earlier version saved, under today's names.

    Args:
        values: nested dictionaries, as `fedjax_med.experiment.config.to_dict` gives.
    """
    upgraded = copy.deepcopy(values)
    # The fields of a group before the group itself, which then has only what was not renamed.
    for old in sorted(RENAMED, key=lambda name: name.count("."), reverse=True):
        holder, last = _holder(upgraded, old)
        if last in holder:
            _put(upgraded, new_name(old) or old, holder.pop(last))
    for field, names in VALUES.items():
        holder, last = _holder(upgraded, field)
        if isinstance(holder.get(last), str):
            holder[last] = names.get(holder[last], holder[last])
    for field in REMOVED:
        _drop_removed(upgraded, field)
    return upgraded


def _drop_removed(values: dict[str, Any], field: str) -> None:
    spec = values.get(field)
    if not isinstance(spec, dict) or not isinstance(spec.get("options"), dict):
        return  # not an experiment that any version saved: whoever reads it says so
    for option in REMOVED[field].get(str(spec.get("name")), {}):
        dropped = spec["options"].pop(option, 0)
        holder, last = _holder(values, "client.optimizer.name")
        if dropped and holder.get(last, "sgd") != "sgd":
            raise UserError(
                f"{spec['name']} was run with {option}={dropped} and the clients' optimizer "
                f"{holder[last]}, which this version normalises otherwise: use the "
                "version of fedjax_med that saved it, or train again."
            )


def _holder(values: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that has the last part of `field`, and that part; {} if none has."""
    *groups, last = field.split(".")
    for group in groups:
        inner = values.get(group)
        values = inner if isinstance(inner, dict) else {}
    return values, last


def _put(values: dict[str, Any], field: str, value: Any) -> None:
    """Put `value` at `field`; a group is merged into the one that is there.

    Raises:
        UserError: There is a value already.
    """
    *groups, last = field.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    there = values.get(last, {})
    if isinstance(value, dict) and isinstance(there, dict) and not value.keys() & there.keys():
        values[last] = value | there
    elif last in values:
        raise UserError(f"the experiment has {field!r} twice, under its old name, too: leave one.")
    else:
        values[last] = value


def of_group(group: str) -> dict[str, str]:
    """Return the old and new names of the fields of today's `group`; "" is the experiment."""
    news = {old: new_name(old) or old for old in RENAMED}
    return {
        old.rpartition(".")[2]: new.rpartition(".")[2]
        for old, new in news.items()
        if new.rpartition(".")[0] == group
    }


def accept_old_names(group: str, kind: type[T]) -> type[T]:
    """Let the dataclass of `group` be made, read and set by the old names of its fields, too.

    So the config files of earlier versions run as they are. A name that is neither is refused.
    """
    names, made = of_group(group), kind.__init__
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    where = f"the fields of {kind.__name__}"

    @functools.wraps(made)
    def make(self: Any, *args: Any, **given: Any) -> None:
        for name in given.keys() - names.keys():
            check_name(name, known, where)
        old = {names[name]: value for name, value in given.items() if name in names}
        # `dataclasses.replace` fills in the fields that it is not given under their new names.
        made(self, *args, **{name: v for name, v in given.items() if name not in names} | old)

    def assign(self: Any, name: str, value: Any) -> None:
        if name not in names:
            check_name(name, known, where)
        object.__setattr__(self, name, value)

    kind.__init__ = make  # type: ignore[method-assign]
    kind.__setattr__ = assign  # type: ignore[method-assign]
    for old, new in names.items():
        setattr(kind, old, _alias(new))
    return kind


def _alias(name: str) -> property:
    """Return a property that stands for the attribute `name`."""
    return property(
        lambda self: getattr(self, name), lambda self, value: setattr(self, name, value)
    )
