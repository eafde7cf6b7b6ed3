"""q-FedAvg on the embedded synthetic set, dealt unevenly: clients with larger losses weigh more.

Li et al., ICLR 2020, "Fair Resource Allocation in Federated Learning".

Run:     fedjax-med train --config=configs/q_fair.py --evaluate
Expect:  balanced accuracy 0.651 on its test set after about a minute of training on one CPU
         core.
Change:  --config.aggregator.options.q=...; 0 is the uniform mean, and 5 is about as fair as it
         gets; --config.aggregator.options.learning_rate=...: longer steps. It is 1 / L of a client
         that trains by SGD; with Adam, 10 leaves the steps nearly as long as those of the mean.
"""

from pathlib import Path

from fedjax_med.experiment.config import Experiment, Spec, read


def get_config() -> Experiment:
    """configs/lesions.py with clients that differ and an aggregator that looks at their losses."""
    experiment = read(str(Path(__file__).with_name("lesions.py")))
    experiment.name = "q_fair"
    experiment.rounds = 10
    experiment.partition = Spec("dirichlet", {"alpha": 0.3})
    experiment.aggregator = Spec("q_fair", {"q": 1.0, "learning_rate": 10.0})
    return experiment
