"""MOON on the embedded synthetic set, with clients that differ in their mix of classes.

Li, He, Song, CVPR 2021, "Model-Contrastive Federated Learning".

Run:     fedjax-med train --config=configs/moon.py --evaluate
Expect:  balanced accuracy 0.622 on its test set after 2 minutes of training on one CPU core.
Change:  --config.algorithm.options.mu=0 for FedAvg on the same clients; 5 or 10 for a stronger
         pull; --config.partition.options.alpha=... for clients that differ more or less.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another algorithm and clients that differ."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "moon"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("moon", {"mu": 1.0, "temperature": 0.5})
    return experiment
