"""Messages in bfloat16 on the embedded synthetic set.

Micikevicius et al., ICLR 2018, "Mixed Precision Training".

Run:     fedjax-med train --config=configs/low_precision.py --evaluate
Expect:  balanced accuracy 0.708 on its test set after about a minute of training on one CPU
         core.
Change:  --config.transforms[0].options.kind=float16 for more digits and a smaller range.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another message transform."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "low_precision"
    experiment.rounds = 10
    experiment.transforms = [Spec("low_precision", {"kind": "bfloat16"})]
    return experiment
