"""FedBN on the embedded synthetic set: each client normalises in its own way.

Li et al., ICLR 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization".

Run:     fedjax-med train --config=configs/fed_bn.py --evaluate
Expect:  balanced accuracy 0.660 on its test set by the clients' models together after about a
         minute of training on one CPU core.
Change:  --config.partition.options.alpha=... for clients that differ more (small) or less;
         --config.algorithm.options.local for other leaves that stay at the clients.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ, and their own normalisation."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_bn"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("fed_bn")
    return experiment
