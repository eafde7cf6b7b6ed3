"""Differentially private FedAvg, with one client as the unit: fifty small hospitals.

McMahan et al., ICLR 2018, "Learning Differentially Private Recurrent Language Models"; the clip
follows the median of the updates' norms (Andrew et al., NeurIPS 2021). The fewer clients, the
larger the noise in their mean: with five it would bury them (docs/privacy.md).

Run:     fedjax-med train --config=configs/dp_fed_avg.py --evaluate
Expect:  balanced accuracy 0.263 on its test set, at epsilon 7.99, after about a minute of
         training on one CPU core.
Change:  --config.privacy.target_epsilon=2 for more noise; with 0 it is that of
         --config.privacy.noise_multiplier; --config.privacy.unit=none for none, and no clipping;
         --config.privacy.budget=4 ends the run before epsilon would exceed 4.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Participation, Privacy, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py, smaller, with more clients, half of which take part in a round."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "dp_fed_avg"
    experiment.num_clients = 50
    experiment.participation = Participation(participation_rate=0.5, on_invalid="skip")
    # The noise is the same on every parameter: a smaller network has less of it.
    experiment.image_size = 32
    experiment.model = Spec("cnn", {"widths": (8, 16, 32), "groups": 4})
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.1})
    experiment.client.epochs = 2
    experiment.privacy = Privacy(unit="client", clip_norm=0.5, target_epsilon=8.0, quantile=0.5)
    return experiment
