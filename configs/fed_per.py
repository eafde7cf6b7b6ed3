"""FedPer on the embedded synthetic set: each client has a classifier of its own.

Arivazhagan et al., 2019, "Federated Learning with Personalization Layers".

Run:     fedjax-med train --config=configs/fed_per.py --evaluate
Expect:  balanced accuracy 0.470 on its test set by the clients' models together after about a
         minute of training on one CPU core.
Change:  --config.partition.options.k=... for clients with more or fewer classes;
         --config.algorithm.name=fed_avg for what clients have with one model for all.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that hold three classes each, and their own classifiers."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_per"
    experiment.rounds = 10
    experiment.partition = Spec("labels_per_client", {"k": 3})
    experiment.algorithm = Spec("fed_per")
    return experiment
