"""FedAvg whose clients' messages are clipped to a fixed l2 norm.

McMahan et al., ICLR 2018, "Learning Differentially Private Recurrent Language Models".

Run:     fedjax-med train --config=configs/clip.py --evaluate
Expect:  balanced accuracy 0.641 on its test set after about a minute of training on one CPU
         core.
Change:  --config.transforms[0].options.norm=...; configs/adaptive_clip.py finds the norm by itself.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with a bound on each client's message."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "clip"
    experiment.rounds = 10
    experiment.transforms = [Spec("clip", {"norm": 1.0})]
    return experiment
