"""The flags of an experiment make it again."""

import dataclasses
import shlex

import pytest
import shipped

from fedjax_med.cli.main import parse
from fedjax_med.experiment import config, config_file, resolve
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.report.flags import flags

OWN = {
    "nothing": {},
    "several": {
        "name": "two words; and 'quotes'",
        "transforms": [Spec("clip", {"norm": 0.5}), Spec("top_k", {"share": 0.25})],
        "attacks": [Spec("backdoor", {"clients": (1,), "target": 2})],
        "algorithm": Spec("fed_per", {"local": ("head",)}),
        "model": Spec("cnn", {"widths": (4, 8)}),
        "client": config.Client(optimizer=Spec("sgd", {"learning_rate": 1e-05, "momentum": 0.5})),
        "keep_updates": True,
    },
}


def again(experiment):
    # What a workdir has: through JSON's types.
    experiment = resolve.complete(experiment)
    saved = config.from_dict(config.to_dict(experiment))
    words = shlex.split(" ".join(flags(saved)))
    _, given = parse("train", words)
    return config.to_dict(given.config), config.to_dict(experiment)


@pytest.mark.parametrize("name", OWN)
def test_an_experiment_comes_back(name):
    found, expected = again(Experiment(**OWN[name]))
    assert found == expected
    assert bool(flags(resolve.complete(Experiment(**OWN[name])))) == (name != "nothing")


@pytest.mark.parametrize("path", [path for path in shipped.VARIANTS if "lesions.py" in str(path)])
def test_shipped_experiments_come_back(path):
    found, expected = again(config_file.read(str(path)))
    assert found == expected


def test_a_seed_is_a_flag():
    assert "--config.seed=3" in flags(dataclasses.replace(resolve.complete(Experiment()), seed=3))
