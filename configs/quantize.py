"""Four bits for each value of a message on the embedded synthetic set.

Alistarh et al., NeurIPS 2017, "QSGD"; Suresh et al., ICML 2017 (rotate).

Run:     fedjax-med train --config=configs/quantize.py --evaluate
Expect:  balanced accuracy 0.708 on its test set after about a minute of training on one CPU
         core.
Change:  --config.transforms[0].options.bits=1;
         --config.transforms[0].options.rotate=True for a smaller error with few bits.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another message transform."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "quantize"
    experiment.rounds = 10
    experiment.transforms = [Spec("quantize", {"bits": 4})]
    return experiment
