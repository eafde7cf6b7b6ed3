"""Five clients, one of which sends noise, with the mean as the aggregator.

Blanchard et al., NeurIPS 2017, "Machine Learning with Adversaries".

Run:     fedjax-med train --config=configs/gaussian_noise.py --evaluate
Expect:  balanced accuracy 0.111 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=krum for an aggregator that bears it.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "gaussian_noise"
    experiment.rounds = 10
    experiment.attacks = [Spec("gaussian_noise", {"clients": (0,), "std": 1.0})]
    return experiment
