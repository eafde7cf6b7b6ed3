"""Five clients and the embedded synthetic set: the job of ``make train``.

Run:     fedjax-med train --config=configs/lesions.py --evaluate
Expect:  balanced accuracy 0.895 on its test set after about a minute of training on two CPU cores.
Change:  --config.partition.name=dirichlet for clients that differ in their mix of classes;
         --config.seed=1 for another seed; configs/fed_adam.py for another server optimizer.
"""

from fedjax_med.experiment.config import Client, Experiment, Spec


def get_config() -> Experiment:
    """The experiment."""
    return Experiment(
        rounds=20,
        dataset=Spec("lesions"),
        client=Client(batch_size=16, optimizer=Spec("adamw", {"learning_rate": 0.002})),
    )
