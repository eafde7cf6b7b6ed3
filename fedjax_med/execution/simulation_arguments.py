"""Checks of what a program gives to a simulation: of another kind, or of another place."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.trees import name_of, not_finite
from fedjax_med.data.client_data import ClientData
from fedjax_med.errors import UserError, described, some


def check_params(params: Any) -> None:
    """Refuse initial parameters that are no tree of finite floating-point numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise UserError(
            "expected initial parameters, a tree of arrays as model.init(key, image_shape) "
            f"returns, got {params!r}."
        )
    for path, leaf in leaves:
        if isinstance(leaf, float | complex):
            continue
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            dtype = getattr(leaf, "dtype", None)
            raise UserError(
                f"expected initial parameters of floating-point numbers, got "
                f"{dtype or described(leaf)} in {name_of(path)}: give model.init(key, shape), "
                "or convert them with .astype('float32')."
            )
    if wrong := not_finite(params):
        raise UserError(
            f"expected initial parameters that are finite, got NaN or infinity in {some(wrong)}."
        )


def check_clients(clients: Any) -> None:
    """Refuse examples that are not divided among clients."""
    if not isinstance(clients, ClientData):
        raise UserError(
            "expected the clients' data as fedjax_med.data.from_arrays(inputs, labels, clients) "
            f"returns, got {described(clients)}."
        )


def check_arguments(state: Any, clients: Any, key: Any, num_rounds: Any) -> None:
    """Refuse arguments of `Simulation.rounds` that are of another kind."""
    check_clients(clients)
    if not isinstance(state, FederatedState):
        raise UserError(
            "expected a state from Simulation.init, or the `state` of a RoundResult, got "
            f"{described(state)}."
        )
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape == (2,)):
        raise UserError(f"expected a key, such as jax.random.key(1), got {described(key)}.")
    try:
        operator.index(num_rounds)
    except TypeError as error:
        raise UserError(
            f"expected num_rounds to be a whole number, got {described(num_rounds)}."
        ) from error
