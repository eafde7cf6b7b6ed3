"""SCAFFOLD on the embedded synthetic set, dealt unevenly: control variates against the drift.

Karimireddy et al., ICML 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning".

Run:     fedjax-med train --config=configs/scaffold.py --evaluate
Expect:  balanced accuracy 0.606 on its test set after about a minute of training on one CPU
         core.
Change:  --config.algorithm.name=fed_avg for the same without control variates;
         --config.client.optimizer.options.learning_rate=...;
         --config.client.epochs=5 for clients that drift further in a round.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ and step by plain SGD, as in the paper."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "scaffold"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("scaffold")
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.1})
    return experiment
