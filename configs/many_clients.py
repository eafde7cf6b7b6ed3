"""Ten thousand clients with twenty images each, which stay on disk; a hundred take part in a round.

Run:     fedjax-med train --config=configs/many_clients.py --evaluate
Expect:  balanced accuracy 0.752 on its test set after 4 minutes of training on two CPU cores,
         in 1.15 GiB (docs/many_clients.md). The first time, its 200,000 images are drawn before
         that, which took 25 minutes on a machine that did other work too.
Change:  --config.cohort.options.size=200 for more of them in a round;
         --config.image_storage=memory for the same bits without the disk;
         --config.partition.name=quantity for clients of unequal size.
"""

from fedjax_med.experiment.config import Checkpoint, Client, Experiment, Spec


def get_config() -> Experiment:
    """The experiment; validating takes longer than a round, since all clients validate."""
    return Experiment(
        rounds=100,
        dataset=Spec("lesions", {"train_size": 200_000}),
        image_size=32,
        num_clients=10_000,
        # With two images of most classes a client must give up more than the usual 15 %.
        validation_fraction=0.3,
        model=Spec("cnn", {"widths": (16, 32, 64)}),
        client=Client(epochs=2, batch_size=8),
        cohort=Spec("uniform", {"size": 100}),
        image_storage="disk",
        validate_every=25,
        checkpoint=Checkpoint(every=25),
    )
