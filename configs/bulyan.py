"""Bulyan, against one client of seven that sends the opposite; fewer it does not take.

El Mhamdi et al., ICML 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium".

Run:     fedjax-med train --config=configs/bulyan.py --evaluate
Expect:  balanced accuracy 0.632 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=mean to see what the hostile client does without the defence;
         --config.attacks= for honest clients.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client and an aggregator that stands it."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "bulyan"
    experiment.rounds = 10
    experiment.num_clients = 7
    experiment.attacks = [Spec("sign_flip", {"clients": (0,), "scale": 10.0})]
    experiment.aggregator = Spec("bulyan", {"hostile": 1})
    return experiment
