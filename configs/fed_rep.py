"""FedRep on the embedded synthetic set: each client trains its classifier, then the shared body.

Collins et al., ICML 2021, "Exploiting Shared Representations for Personalized Federated Learning".

Run:     fedjax-med train --config=configs/fed_rep.py --evaluate
Expect:  balanced accuracy 0.438 on its test set by the clients' models together after 2 minutes
         of training on one CPU core.
Change:  --config.algorithm.options.head_epochs=... (10 in the paper);
         --config.partition.options.k=... for clients with more or fewer classes.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that hold three classes each, and their own classifiers."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_rep"
    experiment.rounds = 10
    experiment.partition = Spec("labels_per_client", {"k": 3})
    experiment.algorithm = Spec("fed_rep", {"head_epochs": 5})
    return experiment
