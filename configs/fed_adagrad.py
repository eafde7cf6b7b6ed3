"""FedAdagrad on the embedded synthetic set: FedAvg with ``adagrad`` on the server.

Reddi et al., ICLR 2021, "Adaptive Federated Optimization".

Run:     fedjax-med train --config=configs/fed_adagrad.py --evaluate
Expect:  @@
Change:  --config.server_optimizer.options.learning_rate=...;
         the step shrinks with the rounds, so learning_rate is larger than FedAdam's.
"""

from pathlib import Path

from fedjax_med.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another server optimizer."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_adagrad"
    experiment.server_optimizer = Spec(
        "adagrad", {"learning_rate": 0.02, "initial_accumulator_value": 1e-6, "eps": 1e-3}
    )
    return experiment
