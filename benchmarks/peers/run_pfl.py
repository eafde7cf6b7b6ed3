"""pfl-research (Apple): its in-process simulation with PyTorch."""

import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["PFL_PYTORCH_DEVICE"] = "cpu"  # where the data is

import torch
from channel import Channel
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional
from torch_model import Work


class Step(TrainingProcessCallback):
    """After each round, answer the driver and wait for its next command."""

    def __init__(self, channel, work):
        self._channel, self._work = channel, work

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        del aggregate_metrics, central_iteration
        self._channel.done(lambda: self._work.loss(model.pytorch_model))
        return not self._channel.next(), Metrics()


class Losses:
    """What pfl asks of a module."""

    def loss(self, images, labels, eval=False):
        return functional.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images, labels, eval=False):
        loss = functional.cross_entropy(self(images), labels, reduction="sum")
        return {"loss": Weighted(loss.item(), len(labels))}


def main(file: str, name: str) -> None:
    channel = Channel()
    work = Work(file)
    network = work.model()
    network.__class__ = type("Network", (Losses, type(network)), {})
    data = list(zip(work.image, work.label, strict=True))  # pfl does not shuffle
    # Its own samplers draw users at random or in turn; this one follows the workload's cohorts.
    users = itertools.cycle(itertools.chain.from_iterable(work.cohorts))
    training = FederatedDataset(lambda user: Dataset(data[user], user_id=user), lambda: next(users))
    channel.next()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=10**6,
            evaluation_frequency=10**6,
            train_cohort_size=len(work.cohort(0)),
            val_cohort_size=0,
        ),
        SimulatedBackend(training, training),
        PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=work.about["learning_rate"],
            local_batch_size=work.about["batch_size"],
        ),
        NNEvalHyperParams(local_batch_size=work.about["batch_size"]),
        [Step(channel, work)],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
