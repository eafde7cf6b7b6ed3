"""Five hospitals, the real skin-cancer images, a small network from scratch."""

from fedjax_med.config import Client, Experiment, Loss, Spec


def get_config() -> Experiment:
    """The experiment."""
    return Experiment(
        rounds=50,
        dataset=Spec("isic9"),
        loss=Loss(class_balance=0.99),
        client=Client(optimizer=Spec("sgd", {"learning_rate": 0.05, "momentum": 0.9})),
    )
