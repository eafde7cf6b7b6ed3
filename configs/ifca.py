"""IFCA on the embedded synthetic set: two models, each client trains the one that suits it.

Ghosh et al., NeurIPS 2020, "An Efficient Framework for Clustered Federated Learning".

Run:     fedjax-med train --config=configs/ifca.py --evaluate
Expect:  balanced accuracy 0.632 on its test set by the clients' models together after about a
         minute of training on one CPU core.
Change:  --config.algorithm.options.clusters=1 for FedAvg on the same clients;
         --config.algorithm.options.spread=... for first models that differ more or less.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with two models and clients that hold few classes each."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "ifca"
    experiment.rounds = 10
    experiment.partition = Spec("labels_per_client", {"k": 4})
    experiment.algorithm = Spec("ifca", {"clusters": 2, "spread": 0.5})
    return experiment
