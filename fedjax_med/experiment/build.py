"""From an experiment to the parts it names: model, algorithm, reducer, map over clients."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedjax_med import ops
from fedjax_med.client import augmentation, local_training, losses, mixup
from fedjax_med.core import client_map, communication
from fedjax_med.core import round as federated
from fedjax_med.core.types import Array, Examples, Key, Metrics, Model, Params
from fedjax_med.data import client_data
from fedjax_med.execution import backend, multihost
from fedjax_med.execution import sharding as placement
from fedjax_med.execution.prefetch import Feed
from fedjax_med.experiment import components, methods, privacy_plan, validation
from fedjax_med.experiment.config import Experiment, alone
from fedjax_med.models.pretrained import weights


class Assembly(NamedTuple):
    """What an experiment is made of, ready to run."""

    model: Model
    init: Callable[[Examples], federated.FedState]  # from the stacked clients [C, N]
    method: methods.Method
    # `(state, data, places=None)`, as in `fedjax_med.core.round.run_round`; the arrays of the state
    # that it is given are gone afterwards.
    run_round: Callable[..., tuple[federated.FedState, Metrics]]
    # From a round and the clients' sizes to who takes part in it; None is everyone.
    choose: Callable[[ArrayLike, Array], Array] | None
    map_clients: backend.Choice  # the strategy that was picked
    placement: placement.Placement  # of what `run_round` takes and gives
    lower: Callable[..., jax.stages.Lowered]  # `run_round`, from the shapes of what it takes
    # From the state and a client's place to the model that it uses; None: all use the server's.
    personal: Callable[[federated.FedState, ArrayLike], Params] | None
    smaller: "Assembly | None" = None  # the same with less memory, where ``auto`` may take it


def _local_training(
    experiment: Experiment, model: Model, class_counts: ArrayLike, work: backend.Work
) -> local_training.LocalTraining:
    loss, client = experiment.loss, experiment.client
    prepare = (
        augmentation.build(experiment.augment, model.mean, model.std, model.colour_constancy)
        if model.frozen is None
        else augmentation.choose_view(experiment.augment)
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

    optimizer = components.build("optax", client.optimizer)
    return local_training.LocalTraining(
        grad_fn,
        local_training.slower_backbone(optimizer, client.backbone_rate, model.head),
        client.epochs,
        client.batch_size,
        validation.schedule(client.schedule, experiment.rounds, client.warmup_rounds),
        features=features,
    )


def build_model(experiment: Experiment, num_classes: int) -> Model:
    """The experiment's model for `num_classes` classes."""
    model: Model = components.build("models", experiment.model, num_classes)
    return model._replace(colour_constancy=experiment.colour_constancy)


def assemble(
    experiment: Experiment,
    num_classes: int,
    class_counts: ArrayLike,
    before: str = "",
    means: privacy_plan.Means | None = None,
) -> Assembly:
    """Build the parts that `experiment` names.

    Args:
        experiment: completed (`fedjax_med.experiment.resolve.complete`).
        num_classes: K.
        class_counts: [K], the training examples of each class over all clients. Hospitals that
            train with a class-balanced loss or logit adjustment tell each other these sums.
        before: the strategy that computed the checkpoint to go on from, if any.
        means: of privacy, as they were chosen for the data; None: as the experiment says.

    Raises:
        UserError: A name does not exist or an option is out of its range.
    """
    validation.check(experiment)
    if experiment.setting != "federated":
        experiment = alone(experiment)
    model = build_model(experiment, num_classes)
    side = experiment.image_size
    init_key, rounds_key = jax.random.split(jax.random.key(experiment.seed))
    work = backend.work_of(jax.eval_shape(lambda: model.init(init_key, (side, side, 3))))
    training = _local_training(experiment, model, class_counts, work)
    method = methods.build(experiment, training, num_classes, rounds_key, means)
    # A checkpoint has its own weights; where the first ones lie is then no matter.
    start = weights.start(model, "" if before else experiment.pretrained)

    def init(data: Examples) -> federated.FedState:
        height, width, channels = data.image.shape[-3:]
        params = start(model.init(init_key, (height, width, channels)))
        state = federated.init(method.algorithm, method.reducer, params, data, method.cohort)
        # Some algorithms keep the first parameters twice, and one buffer can't be donated twice.
        copied: federated.FedState = jax.tree.map(jnp.copy, state)
        return copied

    choice = backend.choose(experiment.map_clients, work, before)
    return _mapped(experiment.num_clients, model, init, method, choice)


def _mapped(
    num_clients: int,
    model: Model,
    init: Callable[[Examples], federated.FedState],
    method: methods.Method,
    choice: backend.Choice,
) -> Assembly:
    """The assembly of `method` that maps over the clients as `choice` says."""
    places = placement.of(choice.name, num_clients)
    map_clients = client_map.STRATEGIES[choice.name]
    algorithm, key = method.algorithm, method.key

    @functools.partial(
        jax.jit,
        out_shardings=(places.state, places.metrics),
        donate_argnums=0,  # the states of many clients need not be in memory twice
        compiler_options=ops.compiler_options(),
    )
    def run(state: Any, data: Any, key: Key, places: federated.Places) -> Any:
        return federated.run_round(
            algorithm,
            method.reducer,
            state,
            data,
            key,
            map_clients=map_clients,
            # Not of those that only fill a device.
            client_ids=jnp.arange(num_clients, dtype=jnp.int32),
            places=places,
            conditions=method.conditions,
            with_messages=method.keep_updates,
        )

    less = None
    if choice.auto and backend.smaller(choice.name) != choice.name:
        instead = backend.Choice(backend.smaller(choice.name), "vmap does not fit its memory")
        less = _mapped(num_clients, model, init, method, instead)
    cohort = method.cohort
    return Assembly(
        model,
        init,
        method,
        lambda state, data, places=None: run(state, data, key, places),
        cohort and jax.jit(functools.partial(federated.choose, cohort, key)),
        choice,
        places,
        lambda state, data, places=None: run.lower(state, data, key, places),
        algorithm.personal and _personal(algorithm.personal),
        less,
    )


def _personal(personal: Callable[[Any, Any], Params]) -> Callable[..., Params]:
    """The model of one client, from the whole state and the client's place."""

    @jax.jit
    def of(state: federated.FedState, place: ArrayLike) -> Params:
        return personal(state.server, jax.tree.map(lambda leaf: leaf[place], state.clients))

    return of


def own_models(assembly: Assembly, state: federated.FedState) -> Callable[[int], Params]:
    """From a client's place to the model that it uses, where clients have their own."""
    assert assembly.personal is not None
    return functools.partial(assembly.personal, state)


def traffic(assembly: Assembly, data: Examples) -> communication.Traffic:
    """What one client receives and sends in one round.

    Args:
        assembly: from `assemble`.
        data: the shapes of the clients' training examples, [C, N].
    """
    state = jax.eval_shape(assembly.init, data)
    client = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.clients
    )
    method = assembly.method
    return communication.traffic(method.algorithm, method.transforms, state.server, client, data)


def feed(assembly: Assembly, experiment: Experiment, held: client_data.Held) -> Feed:
    """What each round trains on; close it at the end."""
    sizes = (experiment.client.batch_size, experiment.rounds)
    return Feed(held, assembly.choose, assembly.map_clients.name, *sizes)


def _bytes_on_a_device(data: Any) -> int:
    """What arrays, or their shapes with shardings, take of each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(data)
    )


def fitted(assembly: Assembly, experiment: Experiment, held: client_data.Held) -> Assembly:
    """`assembly`, or the one with less memory where the device has too little for it.

    What is chosen is compiled already then; nothing is compiled where there is no choice.

    Args:
        assembly: from `assemble`.
        experiment: what it was assembled from.
        held: who holds what.
    """
    if assembly.smaller is None:
        return assembly

    with contextlib.closing(feed(assembly, experiment, held)) as shapes:
        data, places = shapes.largest()
    start = jax.jit(lambda: assembly.init(held.shapes()), out_shardings=assembly.placement.state)
    ahead = _bytes_on_a_device(data) if places is not None and assembly.choose else 0
    needed = backend.bytes_needed(assembly.lower(start.eval_shape(), data, places))
    fits = needed + ahead <= backend.bytes_free()
    return assembly if multihost.all_of(fits) else assembly.smaller
