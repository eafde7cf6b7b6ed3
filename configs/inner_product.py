"""Five clients, one of which turns the mean around, with the mean as the aggregator.

Xie, Koyejo, Gupta, UAI 2019, "Fall of Empires".

Run:     fedjax-med train --config=configs/inner_product.py --evaluate
Expect:  balanced accuracy 0.111 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.name=geometric_median for an aggregator that bears it.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a hostile client."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "inner_product"
    experiment.rounds = 10
    experiment.attacks = [Spec("inner_product", {"clients": (0,), "epsilon": 10.0})]
    return experiment
