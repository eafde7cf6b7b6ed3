"""The median of each coordinate.

Yin et al., ICML 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
"""

import jax

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.types import Key, Message


def build() -> Aggregator:
    """Build the coordinate-wise median over the clients that have examples, each counted once.

    It stays within the range of the honest values while fewer than half of the clients are hostile.
    """

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        return jax.tree.map(lambda leaf: _robust.median(leaf, counts), messages), state

    return Aggregator(lambda message, num_clients, num_senders: (), update, is_robust=True)
