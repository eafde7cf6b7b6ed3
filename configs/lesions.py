"""Five clients, the embedded synthetic set: the job of ``make train``.

Run:     fedjax-med train --config=configs/lesions.py --evaluate
"""

from fedjax_med.config import Client, Experiment, Spec


def get_config() -> Experiment:
    """The experiment."""
    return Experiment(
        rounds=8,
        dataset=Spec("lesions"),
        client=Client(optimizer=Spec("sgd", {"learning_rate": 0.05, "momentum": 0.9})),
    )
