"""Plans a whole run before anything is computed, or refuses it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from fedjax_med.core.algorithm import FederatedAlgorithm, FederatedState, Traits
from fedjax_med.core.model import Model
from fedjax_med.core.process import Process
from fedjax_med.core.types import Examples, Key, Params
from fedjax_med.data import feature_cache
from fedjax_med.data.client_data import ClientData
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import CompiledProcess, compile_process, initial_state
from fedjax_med.execution.statistics import take_statistics
from fedjax_med.experiment import build, options, validation
from fedjax_med.experiment.config import Experiment
from fedjax_med.experiment.privacy_plan import plan_privacy
from fedjax_med.experiment.resolve import Resolved
from fedjax_med.models.pretrained import weights
from fedjax_med.privacy.plan import PrivacyPlan


class Plan(NamedTuple):
    """The complete plan of a run.

    experiment: as requested; recorded in the workdir.
    trained: as trained: with one client in a setting without federation.
    model: of each client.
    process: the parts of a round.
    privacy: the guarantee and its cost; None if there is no guarantee.
    backend: the client map, and the reason.
    init_params: from the images' shape (H, W, ch) to the initial global parameters.
    key: of all rounds, from the experiment's seed.
    """

    experiment: Experiment
    trained: Experiment
    model: Model
    process: Process
    privacy: PrivacyPlan | None
    backend: backend.Backend
    init_params: Callable[[tuple[int, int, int]], Params]
    key: Key

    @property
    def last_round(self) -> int:
        """Return the number of the last round, which a privacy budget may bring forward."""
        return self.privacy.rounds if self.privacy else self.experiment.rounds


def make_plan(
    resolved: Resolved,
    class_counts: ArrayLike,
    sizes: Iterable[int] = (),
    *,
    before: str = "",
    noise_multiplier: float | None = None,
) -> Plan:
    """Plan a run; refuse parts that do not go together.

    Args:
        resolved: the resolved experiment.
        class_counts: [K], the training examples of each class over all clients.
        sizes: [C], the training examples of each client, for the accounting of privacy.
        before: the client map that computed the checkpoint to resume from, if any.
        noise_multiplier: of the trained run, if already known.

    Raises:
        UserError: A name does not exist, an option is out of its range, two parts do not go
            together, or the requested privacy is not attainable.
    """
    experiment, num_classes = resolved.trained, len(class_counts)  # type: ignore[arg-type]
    model = build.build_model(experiment, num_classes)
    validation.check_statistics(experiment, model)
    side = experiment.image_size
    init_key, rounds_key = jax.random.split(jax.random.key(experiment.seed))
    shapes = jax.eval_shape(lambda: model.init(init_key, (side, side, 3)))
    work = backend.workload(shapes)
    trainer = build.build_trainer(experiment, model, class_counts, work)
    traits = _traits(build.build_algorithm(experiment, trainer), shapes)
    privacy = plan_privacy(experiment, traits, sizes, noise_multiplier)
    noise = privacy.account.noise_multiplier if privacy else None
    # A resumed run restores its weights from the checkpoint, so the pretrained file need not exist.
    start = weights.start(model, "" if before else experiment.pretrained)

    def init_params(shape: tuple[int, int, int]) -> Params:
        return start(model.init(init_key, shape))

    return Plan(
        resolved.asked,
        experiment,
        model,
        build.build_process(experiment, trainer, num_classes, noise, model.fixed),
        privacy,
        backend.choose(experiment.map_clients, work, before),
        init_params,
        rounds_key,
    )


def with_statistics(plan: Plan, clients: ClientData) -> Plan:
    """Let a plan begin with what its model takes of the clients' training examples, if anything.

    Args:
        plan: of the run.
        clients: their training data; the sums are computed here, once.

    Raises:
        UserError: A sum is not finite.
    """
    if not plan.model.statistics:
        return plan
    height, width, channels = clients.split.image.shape[-3:]
    first = plan.init_params((height, width, channels))
    params = take_statistics(plan.model, first, clients)
    return plan._replace(init_params=lambda shape: params)


def _traits(algorithm: FederatedAlgorithm, params: Params) -> Traits:
    """Return the algorithm's traits; a client with a state is not stateless, whatever they say."""
    _, client = jax.eval_shape(algorithm.init, params)
    stateless = algorithm.traits.stateless_clients and not jax.tree.leaves(client)
    return algorithm.traits._replace(stateless_clients=stateless)


def check_before_data(resolved: Resolved) -> None:
    """Refuse parts that do not go together before any data is read.

    The parts are built around a trainer that never trains; what depends on the model or on the
    data is left to `make_plan`.

    Raises:
        UserError: As in `make_plan`.
    """
    validation.check_protects(resolved.asked)
    build.build_process(resolved.trained, options.trainer(), options.ANY_CLASSES)
    model = build.build_model(resolved.trained, options.ANY_CLASSES)
    validation.check_statistics(resolved.trained, model)


def check_weights(resolved: Resolved) -> None:
    """Refuse initial weights that cannot be read, or that the model does not take, before any data.

    Raises:
        UserError: As in `make_plan`.
    """
    experiment = resolved.trained
    model, side = build.build_model(experiment, options.ANY_CLASSES), experiment.image_size
    if model.frozen is None:
        weights.start(model, experiment.pretrained)
    else:
        feature_cache.part(model.frozen, experiment.pretrained, (side, side, 3))


def recorded_weights(experiment: Experiment) -> list[dict[str, str]]:
    """Return what is recorded of the experiment's weights from the hub, network by network."""
    model = build.build_model(experiment, options.ANY_CLASSES)
    return weights.recorded(experiment.pretrained, model.networks)


def compile_plan(plan: Plan) -> CompiledProcess:
    """Build the functions of the plan's process for this machine; they compile on first use."""
    experiment = plan.trained
    return compile_process(
        plan.process, experiment.num_clients, plan.backend, experiment.client.batch_size
    )


def first_state(plan: Plan, data: Examples) -> FederatedState:
    """Build the state before the first round.

    Args:
        plan: of the run.
        data: the clients' training examples, [C, N], or their shapes.
    """
    height, width, channels = data.image.shape[-3:]
    return initial_state(plan.process, plan.init_params((height, width, channels)), data)
