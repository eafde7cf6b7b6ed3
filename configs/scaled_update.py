"""Five clients, one of which replaces the model by ten times its update, with the mean.

Bagdasaryan et al., AISTATS 2020, "How To Backdoor Federated Learning".

Run:     fedjax-med train --config=configs/scaled_update.py --evaluate
Expect:  balanced accuracy 0.248 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=norm_bounded_mean for an aggregator that bears it.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "scaled_update"
    experiment.rounds = 10
    experiment.attacks = [Spec("scaled_update", {"clients": (0,), "scale": 10.0})]
    return experiment
