"""Sums over all clients' examples before the first round, from which a model fixes parameters."""

from typing import Any

import jax
import numpy as np

from fedjax_med.core.model import Model, Statistics
from fedjax_med.core.trees import take
from fedjax_med.core.types import Params
from fedjax_med.data.client_data import ClientData, stack
from fedjax_med.data.dataset import Split
from fedjax_med.errors import UserError


def take_statistics(model: Model, params: Params, clients: ClientData) -> Params:
    """Fix the parameters that follow from the clients' sums; the result is the same for every map.

    Args:
        model: its `statistics` are taken one after the other.
        params: the initial parameters.
        clients: their training examples; each client's function gets its own ones alone.

    Raises:
        UserError: A sum is not finite.
    """
    for statistics in model.statistics:
        params = statistics.fix(params, federated_sums(statistics, params, clients))
    return params


def at_site(model: Model, params: Params, split: Split) -> Params:
    """Mix the statistics of a site's own images into the fixed parameters.

    Args:
        model: its `own_statistics` is the share, of the statistics that need no labels.
        params: of training.
        split: the site's images; their labels are not used.

    Raises:
        UserError: A sum is not finite.
    """
    everything = ClientData(split, (np.arange(split.num_examples),))
    unlabelled = tuple(one for one in model.statistics if not one.labelled)
    own = take_statistics(model._replace(statistics=unlabelled), params, everything)
    share = model.own_statistics
    mixed = {
        name: jax.tree.map(lambda a, b: (1 - share) * a + share * b, params[name], own[name])
        for name in model.fixed
        if own[name] is not params[name]
    }
    return params | mixed


def federated_sums(statistics: Statistics, params: Params, clients: ClientData) -> Any:
    """Add up what each client's function gives, in float64 and in the clients' order.

    Args:
        statistics: the function of one client's examples.
        params: its first argument.
        clients: their examples, padded to one size so that the function is compiled once.

    Raises:
        UserError: A client's sums hold NaN or infinity.
    """
    one_client = jax.jit(statistics.sums)
    total: Any = None
    for client, index in enumerate(clients.indices):
        examples = take(stack(clients.split, [index], clients.capacity), 0)
        sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one_client(params, examples))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sums)):
            raise UserError(
                f"the sums over the examples of client {client}, which the model takes before the "
                "first round, hold NaN or infinity: are its images and the weights of "
                "--config.pretrained whole?"
            )
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return total
