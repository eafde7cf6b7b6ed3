"""The experiment as plain dataclasses, in which every default lives, and its files."""

import dataclasses
import types
from pathlib import Path
from typing import Any

from fedjax_med.client.augmentation import Augment as Augment  # config files name it
from fedjax_med.errors import UserError, check_name
from fedjax_med.files import read_regular

_LIMIT = 2**20  # bytes of a config file


@dataclasses.dataclass
class Spec:
    """A name on a shelf and the options for its ``build``."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _spec(shelf: str, name: str, **options: Any) -> Any:
    """A dataclass field that holds a `Spec` of `shelf`."""
    return dataclasses.field(
        default_factory=lambda: Spec(name, dict(options)), metadata={"shelf": shelf}
    )


def _choice(default: str, *others: str) -> Any:
    """A dataclass field that is one of a few words; whoever uses it checks it."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


@dataclasses.dataclass
class Loss:
    """The masked softmax cross-entropy."""

    # beta of the class-balanced loss (Cui et al. 2019): 0 weighs every example the same, towards
    # 1 every class the same.
    class_balance: float = 0.0
    label_smoothing: float = 0.0
    # tau of the logit adjustment (Menon et al. 2021): 1 is consistent for the balanced accuracy.
    logit_adjustment: float = 0.0
    focal: float = 0.0  # gamma of the focal loss (Lin et al. 2017): 0 is none


@dataclasses.dataclass
class Client:
    """How a client trains in one round."""

    epochs: int = 1
    batch_size: int = 16  # 0 is the client's whole training part in one step
    optimizer: Spec = _spec("optax", "adamw", learning_rate=0.002)
    # The learning rate's factor by round; client optimizers start anew each round.
    schedule: str = _choice("cosine", "constant")  # cosine: to 0 at `rounds`
    warmup_rounds: int = 0
    backbone_rate: float = 1.0  # the learning rate of all but the classifier, as a factor of it


@dataclasses.dataclass
class Turnout:
    """Who takes part in a round, of the cohort, and what counts of what they send."""

    rate: float = 1.0  # the probability that a client takes part, each by itself (Poisson sampling)
    late: float = 0.0  # the probability that its message comes too late to count
    garbage: float = 0.0  # the probability that its message is NaN, to see what becomes of it
    bad: str = _choice("stop", "skip")  # what messages that are no numbers do to the run
    largest: float = 0.0  # l2 norm above which a message is absurd, and is left out; 0: none is


@dataclasses.dataclass
class Privacy:
    """What differential privacy is promised, and of whom (docs/privacy.md)."""

    unit: str = _choice("none", "client", "example")  # whose influence is bounded
    clip_norm: float = 1.0  # the largest l2 norm of an update (client) or gradient (example)
    noise_multiplier: float = 1.0  # standard deviation of the noise, as a multiple of the clip
    target_epsilon: float = 0.0  # above 0: the noise is chosen so that all rounds cost this
    budget: float = 0.0  # above 0: the run ends before epsilon would exceed it
    delta: float = 1e-5
    accountant: str = _choice("pld", "rdp")
    quantile: float = 0.0  # above 0, of clients: the clip follows this quantile of the norms
    # The seed is for repeating a run: who knows it can subtract the noise, and all experiments of
    # one seed have the same.
    noise_from: str = _choice("secret", "seed")


@dataclasses.dataclass
class Checkpoint:
    """When the state is saved, and what is kept; changing these on resume is allowed."""

    every: int = 5  # rounds
    keep_last: int = 2
    keep_best: int = 1  # by validation balanced accuracy
    # Which of them the run is tested by, where no --checkpoint says it. The best of several by a
    # few hundred images is so partly by chance; under the cosine schedule the last one has settled.
    tested: str = _choice("best", "last")


@dataclasses.dataclass
class Experiment:
    """One experiment: together with the data it decides every bit of the result."""

    name: str = ""  # of the config file, unless it says another
    seed: int = 0
    rounds: int = 40
    dataset: Spec = _spec("datasets", "image_folder")
    image_size: int = 64  # pixels, square
    policy: str = _choice("rarest", "keep", "drop")  # what to do with what the audit finds
    num_clients: int = 5
    partition: Spec = _spec("partitions", "equal")
    # federated; or, to compare with it: pooled (one client has what all have) or local (one of the
    # clients, `hospital`, alone)
    setting: str = _choice("federated", "pooled", "local")
    hospital: int = 0  # the client that trains alone, where the setting is local
    folds: int = 0  # above 0: Test is one of so many parts of Train, as in cross-validation
    fold: int = 0  # which part, from 0
    validation_fraction: float = 0.15  # of each client's examples
    model: Spec = _spec("models", "cnn")
    colour_constancy: float = 0.0  # norm of "shades of gray", 6 is usual; 0: colours as they are
    pretrained: str = ""  # first weights: imagenet, hub or a file; empty is random ones
    augment: Augment = dataclasses.field(default_factory=Augment)
    loss: Loss = dataclasses.field(default_factory=Loss)
    client: Client = dataclasses.field(default_factory=Client)
    cohort: Spec = _spec("cohorts", "everyone")  # who takes part in a round
    algorithm: Spec = _spec("algorithms", "fed_avg")
    server_optimizer: Spec = _spec("optax", "sgd", learning_rate=1.0)
    transforms: list[Spec] = dataclasses.field(
        default_factory=list, metadata={"shelf": "transforms"}
    )
    reducer: Spec = _spec("reducers", "mean")
    turnout: Turnout = dataclasses.field(default_factory=Turnout)
    # What hostile clients do, to test the reducers.
    attacks: list[Spec] = dataclasses.field(default_factory=list, metadata={"shelf": "attacks"})
    privacy: Privacy = dataclasses.field(default_factory=Privacy)
    keep_updates: bool = False  # in WORKDIR/updates: each round's, for `fedjax-med contribution`
    map_clients: str = _choice(
        "auto", "vmap", "sequential", "sharded", "sharded_vmap", "sharded_sequential"
    )
    images: str = _choice("auto", "memory", "disk")  # auto: on disk if beyond 1/4 of the memory
    validate_every: int = 1  # rounds; those that are saved always are
    # Decay, by round, of the moving average of the global model, which is evaluated then; 0: none.
    average: float = 0.0
    views: int = 1  # in evaluation: predictions are means over 1, 2, 4 or 8 mirrored images
    calibrate: bool = False  # in evaluation: by one temperature, which the validation parts choose
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)


def alone(experiment: Experiment) -> Experiment:
    """The training without federation that `experiment` is compared with: one client, going on.

    The clients' part stays as it is; but their optimizer remembers from round to round, as in any
    training, and nothing is done to what would be sent.
    """
    return dataclasses.replace(
        experiment,
        num_clients=1,
        cohort=Spec("everyone"),
        algorithm=Spec("fed_avg", {"keep_optimizer": True}),
        server_optimizer=Spec("sgd", {"learning_rate": 1.0}),
        transforms=[],
        reducer=Spec("mean"),
        turnout=Turnout(),
        # An update is not sent, so it is not protected; examples are.
        privacy=Privacy() if experiment.privacy.unit == "client" else experiment.privacy,
        attacks=[],
        keep_updates=False,
    )


def read(path: str) -> Experiment:
    """The experiment that the config file at `path` returns from ``get_config()``.

    Raises:
        UserError: There is no such file, it does not run, or it returns no `Experiment`.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        names = ", ".join(other.name for other in sorted(file.glob("*.py"))) or "no Python file"
        raise UserError(f"--config={path} is a folder: give one file of it ({names}).")
    if not file.is_file():
        near = [str(other) for other in sorted(file.parent.glob("*.py"))]
        check_name(str(file), near, "the config files")
    if file.suffix != ".py":
        raise UserError(f"--config={path}: expected a Python file (configs/isic9.py is one).")
    try:
        source = read_regular(file, _LIMIT)
    except OSError as error:
        raise UserError(
            f"--config={path} cannot be read: {error.strerror or error}. Give a Python file "
            "(configs/isic9.py is one)."
        ) from error
    module = types.ModuleType("fedjax_med_experiment")
    module.__file__ = str(file)
    try:
        # What was read is what runs, with all that the user may do: the file has to be trusted.
        exec(compile(source, str(file), "exec"), module.__dict__)
        experiment = module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"--config={path} does not run: {reason}") from error
    if not isinstance(experiment, Experiment):
        raise UserError(
            f"--config={path}: expected get_config() to return a "
            f"fedjax_med.experiment.config.Experiment, got {type(experiment).__name__}."
        )
    _check_types(experiment, Experiment(), f"--config={path}")
    return dataclasses.replace(experiment, name=experiment.name or file.stem)


def _check_types(value: Any, default: Any, where: str, field: str = "") -> None:
    """Refuse a field that is of another type than its default; of lists every entry."""
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kind):
        raise UserError(
            f"{where}: expected {field} to be of type {type(default).__name__}, got {value!r}."
        )
    for number, spec in enumerate(value if isinstance(default, list) else ()):
        _check_types(spec, Spec(""), where, f"{field}[{number}]")
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        for item in dataclasses.fields(default):
            name = f"{field}.{item.name}".lstrip(".")
            _check_types(getattr(value, item.name), getattr(default, item.name), where, name)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """`experiment` as nested dictionaries and lists that JSON can hold."""
    return _plain(dataclasses.asdict(experiment))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_dict(values: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`.

    Raises:
        UserError: A field is of another type than it should be.
    """
    where = "the experiment that was saved"
    try:
        experiment: Experiment = _from_dict(Experiment, values)
    except TypeError as error:
        raise UserError(f"{where} does not read: {' '.join(str(error).split())}.") from error
    _check_types(experiment, Experiment(), where)
    return experiment


def _from_dict(kind: type[Any], values: dict[str, Any]) -> Any:
    fields = {}
    # Files of other versions are read too: a field they lack has its default, one more is ignored.
    for field in [field for field in dataclasses.fields(kind) if field.name in values]:
        value = values[field.name]
        if "shelf" in field.metadata:
            fields[field.name] = (
                [Spec(**item) for item in value] if isinstance(value, list) else Spec(**value)
            )
        elif isinstance(value, dict):
            assert isinstance(field.type, type)
            fields[field.name] = _from_dict(field.type, value)
        else:
            fields[field.name] = value
    return kind(**fields)
