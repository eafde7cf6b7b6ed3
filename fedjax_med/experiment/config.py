"""The experiment as plain dataclasses with every default, and its form in JSON."""

import dataclasses
from typing import Any

from fedjax_med.client.augmentation import Augment as Augment  # for config files
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation.operating import Operating as Operating  # for config files
from fedjax_med.experiment import renamed


@dataclasses.dataclass
class Spec:
    """The name of a component on a shelf (its folder), and the options for its ``build``."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _spec(shelf: str, name: str, **options: Any) -> Any:
    """Declare a dataclass field that holds a `Spec` of `shelf`."""
    return dataclasses.field(
        default_factory=lambda: Spec(name, dict(options)), metadata={"shelf": shelf}
    )


def _choice(default: str, *others: str) -> Any:
    """Declare a dataclass field that is one of a few words; its users check the value."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


@dataclasses.dataclass
class Loss:
    """Options of the masked softmax cross-entropy."""

    # beta of the class-balanced loss (Cui et al. 2019): 0 weighs all examples equally; towards 1,
    # all classes equally.
    class_balance: float = 0.0
    label_smoothing: float = 0.0
    # tau of the logit adjustment (Menon et al. 2021): 1 is consistent for balanced accuracy.
    logit_adjustment: float = 0.0
    focal: float = 0.0  # gamma of the focal loss (Lin et al. 2017); 0: none


@dataclasses.dataclass
class Client:
    """Local training of a client in one round."""

    epochs: int = 1
    batch_size: int = 16  # 0: the client's whole training part in one step
    optimizer: Spec = _spec("optax", "adamw", learning_rate=0.002)
    # The learning rate's factor by round; client optimizers are initialised anew each round.
    schedule: str = _choice("cosine", "constant")  # cosine: to 0 at `rounds`
    warmup_rounds: int = 0
    backbone_rate: float = 1.0  # factor of the learning rate of all parameters but the classifier's


@dataclasses.dataclass
class Participation:
    """Participation of the cohort's clients in a round, and which of their updates count."""

    participation_rate: float = 1.0  # of each client independently (Poisson sampling)
    straggler_rate: float = 0.0  # probability that an update comes too late to count
    corruption_rate: float = 0.0  # probability that an update is NaN, for tests
    on_invalid: str = _choice("stop", "skip")  # effect of updates that are not finite
    max_update_norm: float = 0.0  # updates with a larger l2 norm are rejected; 0: no limit


@dataclasses.dataclass
class Privacy:
    """The differential privacy guarantee, and the unit that it protects (docs/privacy.md)."""

    unit: str = _choice("none", "client", "example")  # the unit whose influence is bounded
    clip_norm: float = 1.0  # the largest l2 norm of an update (client) or gradient (example)
    noise_multiplier: float = 1.0  # standard deviation of the noise, as a multiple of the clip
    target_epsilon: float = 0.0  # above 0: the noise is chosen so that all rounds cost this
    budget: float = 0.0  # above 0: the run ends before epsilon would exceed it
    delta: float = 1e-5
    accountant: str = _choice("pld", "rdp")
    quantile: float = 0.0  # above 0 (unit client): the clip follows this quantile of the norms
    # "seed" makes a run repeatable, but anyone who knows the seed can subtract the noise, and all
    # experiments with one seed have the same noise.
    noise_from: str = _choice("secret", "seed")


@dataclasses.dataclass
class Groups:
    """Images that belong together, such as those of a lesion or a patient (docs/own_data.md)."""

    path: str = ""  # a table with a line for each image; empty: no groups
    column: str = ""  # the heading of the groups; an empty cell is a group of one
    image: str = "image"  # the heading of the images
    # Training images whose group is also in Test: report them and test without them, too; or drop
    # them from Train.
    in_test: str = _choice("report", "drop")


@dataclasses.dataclass
class Checkpoint:
    """The checkpoints: how often, and how many are kept; may be changed on resume."""

    every: int = 5  # rounds
    keep_last: int = 2
    keep_best: int = 1  # by validation balanced accuracy
    # The checkpoint that is tested, unless --checkpoint names one. On a few hundred validation
    # images the best is partly chance; under the cosine schedule the last one has settled.
    tested: str = _choice("best", "last")


@dataclasses.dataclass
class Metadata:
    """A CSV that says more of the images, and the headings of its columns; an empty one is none."""

    path: str = ""
    image: str = "image"  # file names, with or without folders and suffix
    lesion: str = ""
    source: str = ""  # the archive or device
    # If given there are two sources: the cells of column `source` that begin so, and all others.
    source_prefix: str = ""
    diagnosis: str = ""  # compared with the classes in the audit


@dataclasses.dataclass
class Experiment:
    """One experiment; together with the data it determines every bit of the result."""

    name: str = ""  # default: the config file's name
    seed: int = 0
    rounds: int = 40
    dataset: Spec = _spec("datasets", "image_folder")
    image_size: int = 64  # pixels, square
    # How images become square: by their centre, by black bars, or without their aspect ratio.
    crop: str = _choice("centre", "pad", "stretch")
    # Treatment of the audit's findings; corrected: by `corrections`, then as rarest.
    policy: str = _choice("rarest", "keep", "drop", "corrected")
    corrections: str = ""  # for policy corrected: a CSV, or the name of a table of this package
    metadata: Metadata = dataclasses.field(default_factory=Metadata)
    num_clients: int = 0  # 0: the hospitals' folders, or the sites of the table; else 5
    groups: Groups = dataclasses.field(default_factory=Groups)
    partition: Spec = _spec("partitions", "equal")
    # federated; or, for comparison: centralized (one client has the data of all) or local (one
    # client, `local_client`, alone)
    setting: str = _choice("federated", "centralized", "local")
    local_client: int = 0  # the client that trains alone in the setting local
    folds: int = 0  # above 0: cross-validation, Test is one of so many parts of Train
    fold: int = 0  # index of that part, from 0
    validation_fraction: float = 0.15  # of each client's examples
    model: Spec = _spec("models", "cnn")
    colour_constancy: float = 0.0  # norm of "shades of gray", 6 is usual; 0: colours unchanged
    # Initial weights: imagenet, hub, hub:OWNER/NAME@COMMIT, a file or a bundle; empty: random.
    pretrained: str = ""
    augment: Augment = dataclasses.field(default_factory=Augment)
    loss: Loss = dataclasses.field(default_factory=Loss)
    client: Client = dataclasses.field(default_factory=Client)
    cohort: Spec = _spec("cohorts", "everyone")  # selects the clients of a round
    algorithm: Spec = _spec("algorithms", "fed_avg")
    server_optimizer: Spec = _spec("optax", "sgd", learning_rate=1.0)
    transforms: list[Spec] = dataclasses.field(
        default_factory=list, metadata={"shelf": "transforms"}
    )
    aggregator: Spec = _spec("aggregators", "mean")
    participation: Participation = dataclasses.field(default_factory=Participation)
    # Attacks by Byzantine clients, to test the aggregators.
    attacks: list[Spec] = dataclasses.field(default_factory=list, metadata={"shelf": "attacks"})
    privacy: Privacy = dataclasses.field(default_factory=Privacy)
    keep_updates: bool = False  # each round's, in WORKDIR/updates, for `fedjax-med contribution`
    map_clients: str = _choice(
        "auto", "vmap", "sequential", "sharded", "sharded_vmap", "sharded_sequential"
    )
    image_storage: str = _choice(
        "auto", "memory", "disk"
    )  # auto: on disk if larger than 1/4 of the memory
    validate_every: int = 1  # rounds; saved rounds are always validated
    # Decay per round of the global model's moving average, which is then evaluated; 0: none.
    ema_decay: float = 0.0
    tta_views: int = 1  # in evaluation: predictions are means over 1, 2, 4 or 8 mirrored images
    calibrate: bool = False  # in evaluation: scale by a temperature fitted on the validation parts
    operating: Operating = dataclasses.field(default_factory=Operating)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)


renamed.accept_old_names("", Experiment)
for _field in dataclasses.fields(Experiment):
    if isinstance(_field.type, type) and dataclasses.is_dataclass(_field.type):
        renamed.accept_old_names(_field.name, _field.type)
Turnout = Participation  # its name in the config files of earlier versions


def without_federation(experiment: Experiment) -> Experiment:
    """Return the baseline without federation for `experiment`: one client that trains continuously.

    Local training stays the same, but the optimizer keeps its state from round to round, as in any
    training; transforms, faults and attacks on updates are left out.
    """
    return dataclasses.replace(
        experiment,
        num_clients=1,
        cohort=Spec("everyone"),
        algorithm=Spec("fed_avg", {"keep_optimizer": True}),
        server_optimizer=Spec("sgd", {"learning_rate": 1.0}),
        transforms=[],
        aggregator=Spec("mean"),
        participation=Participation(),
        # No update is sent, so none needs protection; examples still do.
        privacy=Privacy() if experiment.privacy.unit == "client" else experiment.privacy,
        attacks=[],
        keep_updates=False,
    )


def read(path: str) -> Experiment:
    """Call `config_file.read`, which config files import from here."""
    from fedjax_med.experiment import config_file  # here: it imports this module

    return config_file.read(path)


def check_types(value: Any, default: Any, where: str, field: str = "") -> None:
    """Refuse unknown fields, and those of another type than the default's; check list entries."""
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kind):
        name = value if isinstance(value, str) else getattr(value, "name", "mean")
        write = f": write Spec({name!r}, {{...}}), with its options" * isinstance(default, Spec)
        raise UserError(
            f"{where}: expected {field} to be of type {type(default).__name__}, got "
            f"{value!r}{write}."
        )
    for number, spec in enumerate(value if isinstance(default, list) else ()):
        check_types(spec, Spec(""), where, f"{field}[{number}]")
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        known = [item.name for item in dataclasses.fields(default)]
        for unknown in vars(value).keys() - set(known):
            check_name(unknown, known, f"the fields of {field or 'the experiment'} ({where})")
        for item in dataclasses.fields(default):
            name = f"{field}.{item.name}".lstrip(".")
            check_types(getattr(value, item.name), getattr(default, item.name), where, name)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Convert `experiment` to nested dictionaries and lists that JSON can hold."""
    return _plain(dataclasses.asdict(experiment))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_dict(values: dict[str, Any]) -> Experiment:
    """Restore an experiment from `to_dict`'s `values`, of this version or an earlier one.

    A field that an earlier version did not have gets its default.

    Raises:
        UserError: A field has the wrong type, or is of a later version.
    """
    where = "the experiment that was saved"
    try:
        experiment: Experiment = _from_dict(Experiment, renamed.upgrade(values), where)
    except TypeError as error:
        raise UserError(f"{where} does not read: {' '.join(str(error).split())}.") from error
    check_types(experiment, Experiment(), where)
    return experiment


def _from_dict(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(kind)}
    fields = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{where} has a field {name!r} that this version does not know: use the version "
                "of fedjax_med that saved it, or a later one."
            )
        field = known[name]
        if "shelf" in field.metadata:
            fields[name] = (
                [_saved_spec(item, where) for item in value]
                if isinstance(value, list)
                else _saved_spec(value, where)
            )
        elif isinstance(value, dict):
            assert isinstance(field.type, type)
            fields[name] = _from_dict(field.type, value, where)
        else:
            fields[name] = value
    return kind(**fields)


def _saved_spec(value: Any, where: str) -> Spec:
    try:
        return Spec(**value)
    except UserError as error:
        raise UserError(f"{where} does not read: {error}") from error
