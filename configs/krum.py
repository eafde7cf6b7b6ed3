"""Multi-Krum, against one client of five that sends the opposite.

Blanchard et al., NeurIPS 2017, "Machine Learning with Adversaries".

Run:     fedjax-med train --config=configs/krum.py --evaluate
Expect:  balanced accuracy 0.689 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=mean to see what the hostile client does without the defence;
         --config.aggregator.options.keep=1 for Krum itself, which learns from one client a round.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client and an aggregator that stands it."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "krum"
    experiment.rounds = 10
    experiment.attacks = [Spec("sign_flip", {"clients": (0,), "scale": 10.0})]
    experiment.aggregator = Spec("krum", {"hostile": 1, "keep": 3})
    return experiment
