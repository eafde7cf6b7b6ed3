"""Builds the parts that an experiment names: model, trainer, algorithm, aggregator, faults."""

from typing import Any

from jax.typing import ArrayLike

from fedjax_med import ops
from fedjax_med.algorithms import _ema, _report_loss
from fedjax_med.client import augmentation, losses, mixup, optimizers, views
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.aggregation import Aggregator, chain
from fedjax_med.core.algorithm import Cohort, FederatedAlgorithm
from fedjax_med.core.faults import Attack, Faults, Participation
from fedjax_med.core.model import Model
from fedjax_med.core.process import Process
from fedjax_med.core.types import Array, Examples, Key, Params
from fedjax_med.execution.backend import Workload
from fedjax_med.experiment import components, options, validation
from fedjax_med.experiment.config import Experiment
from fedjax_med.privacy import dp_mean
from fedjax_med.privacy.dp_sgd import private_grad_fn


def build_model(experiment: Experiment, num_classes: int) -> Model:
    """Build the experiment's model for `num_classes` classes."""
    model: Model = components.build("models", experiment.model, num_classes)
    return model._replace(colour_constancy=experiment.colour_constancy)


def build_trainer(
    experiment: Experiment, model: Model, class_counts: ArrayLike, work: Workload
) -> LocalTrainer:
    """Build the local training of `model`.

    Args:
        experiment: as trained.
        model: of the experiment.
        class_counts: [K], the training examples of each class over all clients. Hospitals that
            train with a class-balanced loss or logit adjustment reveal these sums to each other.
        work: of one client's step.
    """
    loss, client = experiment.loss, experiment.client
    prepare = (
        augmentation.build(experiment.augment, model.mean, model.std, model.colour_constancy)
        if model.frozen is None
        else views.choose_view(
            experiment.augment, views.needed(experiment.augment, experiment.tta_views)
        )
    )
    grad_fn = losses.cross_entropy(
        model,
        prepare,
        losses.class_balanced_weights(class_counts, loss.class_balance),
        loss.label_smoothing,
        ops.micro_batch() if work.convolutions else 0,
        loss.logit_adjustment * losses.log_prior(class_counts) if loss.logit_adjustment else None,
        loss.focal,
        mixup.build(experiment.augment),
    )
    look = model.features or model.apply

    def features(params: Params, batch: Examples, key: Key) -> Array:
        prepare_key, model_key = losses.keys(key)
        return look(params, prepare(batch.image, prepare_key), model_key)

    optimizer = optimizers.leave_fixed(
        optimizers.discriminative_rates(
            components.build("optax", client.optimizer), client.backbone_rate, model.head
        ),
        model.fixed,
    )
    return LocalTrainer(
        grad_fn,
        optimizer,
        client.epochs,
        client.batch_size,
        optimizers.schedule(client.schedule, experiment.rounds, client.warmup_rounds),
        features=features,
        step_weight=_step_weight(client.optimizer.name, client.optimizer.options),
    )


def _step_weight(name: str, options: dict[str, Any]) -> optimizers.StepWeight:
    """Return the step weights of the client's optimizer; 1 for each step of an adaptive one."""
    if name != "sgd":
        return optimizers.sgd_step_weight()
    return optimizers.sgd_step_weight(options.get("momentum") or 0.0, bool(options.get("nesterov")))


def build_algorithm(
    experiment: Experiment, trainer: LocalTrainer, fixed: tuple[str, ...] = ()
) -> FederatedAlgorithm:
    """Build the algorithm that `experiment` names.

    Args:
        experiment: as trained.
        trainer: local training.
        fixed: as in `Model`.
    """
    optimizer = components.build("optax", experiment.server_optimizer)
    optimizer = optimizers.leave_fixed(optimizer, fixed)
    algorithm: FederatedAlgorithm = components.build(
        "algorithms", experiment.algorithm, trainer, optimizer
    )
    return algorithm


def build_process(
    experiment: Experiment,
    trainer: LocalTrainer,
    num_classes: int,
    noise_multiplier: float | None = None,
    fixed: tuple[str, ...] = (),
) -> Process:
    """Build the parts of a round of `experiment`.

    Args:
        experiment: as trained (`fedjax_med.experiment.resolve.settle`).
        trainer: local training, without privacy.
        num_classes: K.
        noise_multiplier: solved for the target epsilon; None: the experiment's.
        fixed: as in `Model`.

    Raises:
        UserError: A name does not exist, an option is out of its range, or two parts do not go
            together.
    """
    noise = experiment.privacy.noise_multiplier if noise_multiplier is None else noise_multiplier
    trainer = _private_trainer(experiment, trainer, noise)
    algorithm = build_algorithm(experiment, trainer, fixed)
    transforms = [components.build("transforms", spec) for spec in experiment.transforms]
    process = Process(
        algorithm,
        chain(*transforms, aggregator=_aggregator(experiment, noise)),
        _cohort(experiment),
        _faults(experiment, num_classes),
        experiment.keep_updates,
    )
    validation.check_parts(experiment, process)
    if process.aggregator.needs_loss:
        algorithm = _report_loss.report_loss(algorithm, trainer)
    if experiment.ema_decay:
        algorithm = _ema.with_ema(algorithm, experiment.ema_decay)
    return process._replace(algorithm=algorithm)


def _private_trainer(experiment: Experiment, trainer: LocalTrainer, noise: float) -> LocalTrainer:
    """Return `trainer`; with private gradients of Poisson batches if examples are protected."""
    privacy = experiment.privacy
    if privacy.unit != "example":
        return trainer
    grad_fn = private_grad_fn(trainer.grad_fn, privacy.clip_norm, noise, trainer.batch_size)
    return trainer._replace(grad_fn=grad_fn, poisson=True)


def _aggregator(experiment: Experiment, noise: float) -> Aggregator:
    """Build the experiment's aggregator, or the private mean if clients are protected."""
    privacy = experiment.privacy
    if privacy.unit == "client":
        return dp_mean.build(
            clip_norm=privacy.clip_norm,
            noise_multiplier=noise,
            quantile=privacy.quantile,
            rate=experiment.participation.participation_rate,
        )
    aggregator: Aggregator = components.build("aggregators", experiment.aggregator)
    return aggregator


def _cohort(experiment: Experiment) -> Cohort | None:
    if experiment.cohort.name == "everyone":
        return None
    cohort: Cohort = components.build("cohorts", experiment.cohort, experiment.num_clients)
    return cohort


def _faults(experiment: Experiment, num_classes: int) -> Faults:
    attacks = []
    for spec in experiment.attacks:
        attack: Attack = components.build("attacks", spec, num_classes)
        options.check_hostile(spec.name, attack, experiment.num_clients)
        attacks.append(attack)
    asked = experiment.participation
    given = Participation(
        asked.participation_rate,
        asked.straggler_rate,
        asked.corruption_rate,
        # A private run must not stop because of a client's update: stopping would leak information.
        skip_invalid=asked.on_invalid == "skip" or experiment.privacy.unit != "none",
        max_update_norm=asked.max_update_norm,
    )
    return Faults(given, tuple(attacks))
