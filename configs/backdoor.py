"""One hostile client of five teaches a backdoor, and the server bounds what each may send.

Bagdasaryan et al., AISTATS 2020, "How to backdoor federated learning"; the bound of the norms is
the defence of Sun et al., 2019, "Can you really backdoor federated learning?".

Run:     fedjax-med train --config=configs/backdoor.py --evaluate
Expect:  balanced accuracy 0.679 on its test set, where the trigger works on 12 % of the other
         images, after about a minute of training on one CPU core.
Change:  --config.aggregator.name=mean for a server without defence; share and size of the attack
         for a louder one; add Spec("scaled_update", {"scale": 5.0}) to its attacks for the paper's
         model replacement.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with one hostile client."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "backdoor"
    experiment.rounds = 10
    experiment.attacks = [Spec("backdoor", {"clients": (0,), "target": 0, "size": 8, "share": 0.5})]
    experiment.aggregator = Spec("norm_bounded_mean")
    return experiment
