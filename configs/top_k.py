"""A tenth of each message's values on the embedded synthetic set, the largest ones.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory".

Run:     fedjax-med train --config=configs/top_k.py --evaluate
Expect:  balanced accuracy 0.613 on its test set after about a minute of training on one CPU
         core.
Change:  --config.transforms[0].options.share=0.01;
         --config.transforms[0].options.error_feedback=False forgets what is not sent.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with another message transform."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "top_k"
    experiment.rounds = 10
    experiment.transforms = [Spec("top_k", {"share": 0.1})]
    return experiment
