"""A bare PyTorch loop: no framework, channels last, all threads, on the GPU if we train on one."""

import copy
import itertools
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
    if work.device.type == "cuda":  # products in TF32, as XLA computes them; the fastest kernels
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    server = work.model()
    client = copy.deepcopy(server)
    global_weights, weights = list(server.parameters()), list(client.parameters())
    optimizer = torch.optim.SGD(weights, work.about["learning_rate"])  # plain: it has no state

    for number in itertools.count():
        if not channel.next():
            break
        total = [torch.zeros_like(p) for p in global_weights]
        for one in work.cohort(number):
            with torch.no_grad():
                torch._foreach_copy_(weights, global_weights)
            for image, label in work.batches(one):
                optimizer.zero_grad()
                functional.cross_entropy(client(image), label).backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(total, weights)
        with torch.no_grad():
            torch._foreach_copy_(global_weights, total)
            torch._foreach_div_(global_weights, len(work.cohort(number)))
        channel.device = work.wait()
        channel.done(lambda: work.loss(server))


if __name__ == "__main__":
    main(*sys.argv[1:])
