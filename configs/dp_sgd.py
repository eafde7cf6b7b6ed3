"""DP-SGD within FedAvg, with one example as the unit: not even the server can tell an image.

Abadi et al., CCS 2016, "Deep Learning with Differential Privacy": every image's gradient is
clipped, and each hospital adds noise to each of its steps itself (docs/privacy.md).

Run:     fedjax-med train --config=configs/dp_sgd.py --evaluate
Expect:  balanced accuracy 0.359 on its test set, at epsilon 7.99, after 5 minutes of training
         on one CPU core.
Change:  --config.privacy.target_epsilon=2 for more noise; --config.privacy.clip_norm=...;
         --config.privacy.unit=none is the same without clipping, noise and Poisson batches;
         --config.rounds=... (the noise is chosen for all rounds together).
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Privacy, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with private gradients of larger batches."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "dp_sgd"
    experiment.client.batch_size = 64  # the noise is divided by it
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.2, "momentum": 0.9})
    experiment.privacy = Privacy(unit="example", clip_norm=1.0, target_epsilon=8.0)
    return experiment
