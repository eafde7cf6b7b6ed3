"""Minimax weights on the embedded synthetic set, dealt unevenly: for the worst client.

Mohri et al., ICML 2019, "Agnostic Federated Learning".

Run:     fedjax-med train --config=configs/agnostic.py --evaluate
Expect:  balanced accuracy 0.638 on its test set after 3 minutes of training on one CPU core.
Change:  --config.aggregator.options.step_size=...: how fast the weights move to clients with large
         losses; --config.aggregator.name=mean to compare the worst client.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ and an aggregator that looks at their losses."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "agnostic"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.aggregator = Spec("agnostic", {"step_size": 0.3})
    return experiment
