"""The mean of messages of bounded norm, against one client of five that sends the opposite.

Sun et al., 2019, "Can You Really Backdoor Federated Learning?".

Run:     fedjax-med train --config=configs/norm_bounded_mean.py --evaluate
Expect:  balanced accuracy 0.613 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=mean to see what the hostile client does without the defence;
         --config.aggregator.options.norm=...: the bound; 0 is the median of the clients' norms.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client and an aggregator that stands it."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "norm_bounded_mean"
    experiment.rounds = 10
    experiment.attacks = [Spec("sign_flip", {"clients": (0,), "scale": 10.0})]
    experiment.aggregator = Spec("norm_bounded_mean", {"norm": 0.0})
    return experiment
