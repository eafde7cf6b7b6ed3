"""Clustered federated learning on the embedded synthetic set: clients that disagree part.

Sattler, Müller, Samek, IEEE TNNLS 2021, "Clustered Federated Learning".

Run:     fedjax-med train --config=configs/cfl.py --evaluate
Expect:  balanced accuracy 0.730 on its test set by the clients' models together after about a
         minute of training on one CPU core.
Change:  --config.algorithm.options.clusters=1 for FedAvg on the same clients; a larger mean_norm
         or a smaller max_norm divides earlier.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clusters and clients that hold few classes each."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "cfl"
    experiment.rounds = 10
    experiment.partition = Spec("labels_per_client", {"k": 4})
    experiment.algorithm = Spec("cfl", {"clusters": 2, "mean_norm": 1.0, "max_norm": 2.0})
    return experiment
