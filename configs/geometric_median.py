"""The geometric median, against one client of five that sends the opposite.

Pillutla et al., IEEE TSP 2022, "Robust Aggregation for Federated Learning" (RFA).

Run:     fedjax-med train --config=configs/geometric_median.py --evaluate
Expect:  balanced accuracy 0.679 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=mean to see what the hostile client does without the defence;
         --config.aggregator.options.iterations=...: of Weiszfeld's algorithm.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client and an aggregator that stands it."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "geometric_median"
    experiment.rounds = 10
    experiment.attacks = [Spec("sign_flip", {"clients": (0,), "scale": 10.0})]
    experiment.aggregator = Spec("geometric_median", {"iterations": 5, "smoothing": 1e-6})
    return experiment
