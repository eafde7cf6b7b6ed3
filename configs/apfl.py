"""APFL on the embedded synthetic set: each client mixes the global model with its own.

Deng et al., 2020, "Adaptive Personalized Federated Learning".

Run:     fedjax-med train --config=configs/apfl.py --evaluate
Expect:  balanced accuracy 0.698 on its test set by the clients' models together after 2 minutes
         of training on one CPU core.
Change:  --config.algorithm.options.alpha=... (0: the global model; 1: each client alone);
         --config.algorithm.options.adapt=0 leaves alpha as it is.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ, and a mixture for each."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "apfl"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("apfl", {"alpha": 0.5, "adapt": 0.01})
    return experiment
