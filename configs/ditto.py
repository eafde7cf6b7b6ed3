"""Ditto on the embedded synthetic set: each client has a model of its own, near the global one.

Li et al., ICML 2021, "Ditto: Fair and Robust Federated Learning Through Personalization".

Run:     fedjax-med train --config=configs/ditto.py --evaluate
Expect:  balanced accuracy 0.721 on its test set by the clients' models together after 2 minutes
         of training on one CPU core.
Change:  --config.algorithm.options.weight=... (0: each client alone; large: the global model);
         --config.partition.options.alpha=... for clients that differ more (small) or less.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ, and a model for each."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "ditto"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("ditto", {"weight": 0.1})
    return experiment
