"""Clipping to the median norm on the embedded synthetic set, without privacy.

Andrew et al., NeurIPS 2021, "Differentially Private Learning with Adaptive Clipping".

Run:     fedjax-med train --config=configs/adaptive_clip.py --evaluate
Expect:  balanced accuracy 0.648 on its test set after 2 minutes of training on one CPU core.
Change:  --config.transforms[0].options.quantile=0.9 to clip only the longest messages.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another message transform."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "adaptive_clip"
    experiment.rounds = 10
    experiment.transforms = [Spec("adaptive_clip", {"quantile": 0.5, "norm": 1.0, "rate": 0.2})]
    return experiment
