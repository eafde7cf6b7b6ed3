"""The trimmed mean of each coordinate, against one client of five that sends the opposite.

Yin et al., ICML 2018, "Byzantine-Robust Distributed Learning".

Run:     fedjax-med train --config=configs/trimmed_mean.py --evaluate
Expect:  balanced accuracy 0.663 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=mean to see what the hostile client does without the defence;
         --config.aggregator.options.share=...: the share that is cut off at each end.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client and an aggregator that stands it."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "trimmed_mean"
    experiment.rounds = 10
    experiment.attacks = [Spec("sign_flip", {"clients": (0,), "scale": 10.0})]
    experiment.aggregator = Spec("trimmed_mean", {"share": 0.2})
    return experiment
