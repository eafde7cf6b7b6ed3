"""An experiment that trains in seconds: the configuration file of the tests of the commands."""

import os

from fedjax_med.experiment.config import Checkpoint, Client, Experiment, Spec


def get_config() -> Experiment:
    return Experiment(
        rounds=16,
        dataset=Spec("lesions", {"train_size": 90, "test_size": 27}),
        image_size=16,
        num_clients=3,
        model=Spec("cnn", {"widths": (4, 8), "groups": 2}),
        client=Client(batch_size=8, epochs=5),
        map_clients=os.environ.get("FEDJAX_MED_MAP_CLIENTS", "auto"),
        checkpoint=Checkpoint(every=2, keep_last=2, keep_best=1),
    )
