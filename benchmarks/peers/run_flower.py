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
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional
from torch_model import work

CLIENTS = 5


def train(message: Message, context: Context) -> Message:
    """One client's round."""
    mine = work(os.environ["FEDJAX_MED_WORK"])
    client = int(context.node_config["partition-id"])
    model = mine.model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), mine.about["learning_rate"])
    for index in mine.order[client]:
        optimizer.zero_grad()
        image, label = mine.image[client][index], mine.label[client][index]
        functional.cross_entropy(model(image), label).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(mine.label[client])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def main(file: str, name: str) -> None:
    channel = Channel()
    os.environ["FEDJAX_MED_WORK"] = file
    model = work(file).model()
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
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS
        )
        arrays = ArrayRecord(model.state_dict())
        strategy.start(grid, arrays, num_rounds=10**6, evaluate_fn=step)

    run_simulation(
        server_app=server,
        client_app=clients,
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
