"""FedProx on the embedded synthetic set, dealt unevenly: a pull towards the global model.

Li et al., MLSys 2020, "Federated Optimization in Heterogeneous Networks".

Run:     fedjax-med train --config=configs/fed_prox.py --evaluate
Expect:  balanced accuracy 0.619 on its test set after about a minute of training on one CPU
         core.
Change:  --config.algorithm.options.mu=...; 0 is FedAvg, and more keeps the clients nearer;
         --config.client.epochs=5 for clients that drift further in a round.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ, held near the global model."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_prox"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("fed_prox", {"mu": 0.01})
    return experiment
