"""FedAvgM on the embedded synthetic set: FedAvg with ``sgd`` on the server.

Hsu et al., 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification".

Run:     fedjax-med train --config=configs/fed_avgm.py --evaluate
Expect:  balanced accuracy 0.883 on its test set after about a minute of training on two CPU cores.
Change:  --config.server_optimizer.options.learning_rate=...;
         learning_rate / (1 - momentum) is the size of the step that a steady direction gets.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another server optimizer."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_avgm"
    experiment.server_optimizer = Spec("sgd", {"learning_rate": 0.5, "momentum": 0.5})
    return experiment
