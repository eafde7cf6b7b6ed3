"""A bare PyTorch loop: no framework, channels last, all threads. The floor."""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from channel import Channel
from torch.nn import functional
from torch_model import Work


def main(file: str, name: str) -> None:
    channel = Channel()
    work = Work(file)
    server = work.model()
    client = copy.deepcopy(server)

    while channel.next():
        total = [torch.zeros_like(p) for p in server.parameters()]
        for image, label, order in zip(work.image, work.label, work.order, strict=True):
            client.load_state_dict(server.state_dict())
            optimizer = torch.optim.SGD(client.parameters(), work.about["learning_rate"])
            for index in order:
                optimizer.zero_grad()
                functional.cross_entropy(client(image[index]), label[index]).backward()
                optimizer.step()
            for sum_, p in zip(total, client.parameters(), strict=True):
                sum_ += p.detach()
        with torch.no_grad():
            for p, sum_ in zip(server.parameters(), total, strict=True):
                p.copy_(sum_ / len(work.image))
        channel.done(lambda: work.loss(server))


if __name__ == "__main__":
    main(*sys.argv[1:])
