"""FedYogi on the embedded synthetic set: FedAvg with ``yogi`` on the server.

Reddi et al., ICLR 2021, "Adaptive Federated Optimization".

Run:     fedjax-med train --config=configs/fed_yogi.py --evaluate
Expect:  balanced accuracy 0.908 on its test set after about a minute of training on two CPU cores.
Change:  --config.server_optimizer.options.learning_rate=...;
         more rounds allow more momentum (b1); eps is tau in the paper (smaller adapts more).
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another server optimizer."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "fed_yogi"
    experiment.server_optimizer = Spec(
        "yogi", {"learning_rate": 0.015, "b1": 0.5, "b2": 0.99, "eps": 1e-3}
    )
    return experiment
