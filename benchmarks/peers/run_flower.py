"""Flower: its simulation engine, a client a Ray actor, with the PyTorch model."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
# The actors import the same files.
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import ray
import torch
from channel import Channel
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional
from torch_model import client_model, work


def train(message: Message, context: Context) -> Message:
    """One client's round."""
    file = os.environ["FEDJAX_MED_WORK"]
    mine, model = work(file), client_model(file)
    client = int(message.content["config"]["client"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), mine.about["learning_rate"])
    for image, label in mine.batches(client):
        optimizer.zero_grad()
        functional.cross_entropy(model(image), label).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(mine.label[client])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class Cohorts(FedAvg):
    """Federated averaging over the workload's cohorts.

    Flower samples the nodes as it always does; the message says whose images a node trains on.
    """

    def __init__(self, cohort, clients: int) -> None:
        super().__init__(
            fraction_train=len(cohort(0)) / clients,
            fraction_evaluate=0.0,
            min_train_nodes=len(cohort(0)),
            min_available_nodes=clients,
        )
        self._cohort = cohort

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message, client in zip(messages, self._cohort(server_round - 1), strict=True):
            content = {"arrays": arrays, "config": ConfigRecord({**config, "client": client})}
            message.content = RecordDict(content)
        return messages


def main(file: str, name: str) -> None:
    channel = Channel()
    os.environ["FEDJAX_MED_WORK"] = file
    model = work(file).model()
    num_clients = len(work(file).label)
    clients, server = ClientApp(), ServerApp()
    clients.train()(train)

    def step(number: int, arrays: ArrayRecord) -> None:
        model.load_state_dict(arrays.to_torch_state_dict())
        if number:
            channel.done(lambda: work(file).loss(model))
        if not channel.next():
            ray.shutdown()
            os._exit(0)

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Cohorts(work(file).cohort, num_clients)
        arrays = ArrayRecord(model.state_dict())
        strategy.start(grid, arrays, num_rounds=10**6, evaluate_fn=step)

    run_simulation(
        server_app=server,
        client_app=clients,
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
