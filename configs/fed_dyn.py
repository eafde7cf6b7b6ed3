"""FedDyn on the embedded synthetic set, dealt unevenly: a regulariser that changes every round.

Acar et al., ICLR 2021, "Federated Learning Based on Dynamic Regularization".

Run:     fedjax-med train --config=configs/fed_dyn.py --evaluate
Expect:  balanced accuracy 0.790 on its test set after about a minute of training on one CPU
         core.
Change:  --config.algorithm.options.alpha=...; less lets the clients go further in a round;
         --config.client.epochs=5 for clients that come nearer to their objective's minimum.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ and step by plain SGD, as in the paper."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_dyn"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("fed_dyn", {"alpha": 0.1})
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.1})
    return experiment
