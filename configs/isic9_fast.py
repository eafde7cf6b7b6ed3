"""The recipe of isic9_pretrained.py, smaller: 180 pixels, no changed copies, fewer rounds.

Run:     fedjax-med train --config=configs/isic9_fast.py --data_dir=DATA --workdir=runs/fast
         fedjax-med evaluate --workdir=runs/fast
Expect:  balanced accuracy 0.628 +- 0.032 in cross-validation inside Train (five folds), and
         0.580 +- 0.016 on Test (three seeds), after 3.7 to 4.3 minutes of training on one
         CPU core (docs/results.md). Before that, once, 3 minutes for what the frozen
         blocks make of the images.
Change:  as in configs/isic9_pretrained.py.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, read


def get_config() -> Experiment:
    """configs/isic9_pretrained.py with smaller images, no copies and fewer rounds."""
    experiment = read(str(Path(__file__).with_name("isic9_pretrained.py")))
    experiment.name = "isic9_fast"
    experiment.image_size = 180  # as the images are published
    experiment.rounds = 12
    experiment.augment.copies = 0
    return experiment
