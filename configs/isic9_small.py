"""The small network of docs/methods.md: 32 pixels, 15 rounds, tested on a fifth of Train.

Run:     fedjax-med train --config=configs/isic9_small.py --data_dir=DATA --evaluate
Expect:  balanced accuracy 0.351 +- 0.012 on the fifth of Train that is left out (the seeds 0, 1
         and 2, each with its own fold), in less than a minute on one CPU core.
Change:  any of what docs/methods.md compares: --config.algorithm.name=...,
         --config.aggregator.name=..., --config.transforms=..., --config.attacks=...,
         --config.privacy.unit=...; --config.fold=1 for another fifth.
"""

from fedjax_med.experiment.config import Checkpoint, Client, Experiment, Spec


def get_config() -> Experiment:
    """The experiment; its clients step by plain SGD, as most of the papers' do."""
    return Experiment(
        rounds=15,
        dataset=Spec("isic9"),
        image_size=32,
        folds=5,
        validation_fraction=0.1,
        model=Spec("cnn", {"widths": (16, 32, 64)}),
        client=Client(batch_size=16, optimizer=Spec("sgd", {"learning_rate": 0.2})),
        validate_every=15,
        checkpoint=Checkpoint(every=15, keep_last=1, keep_best=0, tested="last"),
    )
