"""Five clients, one of which trains on wrong labels, with the mean as the aggregator.

Tolpegin et al., ESORICS 2020, "Data Poisoning Attacks Against Federated Learning Systems".

Run:     fedjax-med train --config=configs/label_flip.py --evaluate
Expect:  balanced accuracy 0.673 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=median for an aggregator that bears it.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "label_flip"
    experiment.rounds = 10
    experiment.attacks = [Spec("label_flip", {"clients": (0,)})]
    return experiment
