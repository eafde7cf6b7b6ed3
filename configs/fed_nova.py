"""FedNova on the embedded synthetic set, dealt unevenly: large clients take more steps.

Wang et al., NeurIPS 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization".

Run:     fedjax-med train --config=configs/fed_nova.py --evaluate
Expect:  balanced accuracy 0.641 on its test set after about a minute of training on one CPU
         core.
Change:  --config.algorithm.name=fed_avg for the same without normalisation;
         --config.client.optimizer.options.momentum=... (the normalisation follows it).
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ and step by SGD with momentum."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_nova"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.algorithm = Spec("fed_nova")
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.05, "momentum": 0.5})
    return experiment
