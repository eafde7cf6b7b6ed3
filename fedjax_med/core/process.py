"""The parts of a federated round."""

from typing import NamedTuple

from fedjax_med.core.aggregation import Aggregator, MessageTransform, chain
from fedjax_med.core.algorithm import Cohort, FederatedAlgorithm
from fedjax_med.core.faults import Faults


class Process(NamedTuple):
    """One round's parts: algorithm x transforms x aggregator x cohort x faults.

    algorithm: the computation of clients and server.
    transforms: of the messages, in order.
    last: the aggregator of the transformed messages.
    cohort: selects a round's clients; None: all of them, so that no images need to be gathered.
    faults: the faults and attacks of clients.
    keep_updates: whether a round returns the clients' messages.
    """

    algorithm: FederatedAlgorithm
    transforms: tuple[MessageTransform, ...]
    last: Aggregator
    cohort: Cohort | None = None
    faults: Faults = Faults()
    keep_updates: bool = False

    @property
    def aggregator(self) -> Aggregator:
        """Chain the transforms and the aggregator after them into one aggregator."""
        return chain(*self.transforms, aggregator=self.last)
