"""FedAdagrad on the embedded synthetic set: FedAvg with ``adagrad`` on the server.

Reddi et al., ICLR 2021, "Adaptive Federated Optimization".

Run:     fedjax-med train --config=configs/fed_adagrad.py --evaluate
Expect:  balanced accuracy 0.895 on its test set after about a minute of training on two CPU cores.
Change:  --config.server_optimizer.options.learning_rate=...;
         the step shrinks as 1 over the root of the rounds, so more rounds want a larger one.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another server optimizer."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_adagrad"
    experiment.server_optimizer = Spec(
        "adagrad", {"learning_rate": 0.04, "initial_accumulator_value": 1e-6, "eps": 1e-3}
    )
    return experiment
