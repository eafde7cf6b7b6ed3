"""Workdirs of a run and of a comparison that nobody trained: written as the commands write them."""

import json
from pathlib import Path

import numpy as np

from fedjax_med.evaluation import comparison, operating_runs, per_client, predictions, tables
from fedjax_med.evaluation.operating import Operating, Point
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.experiment import config, resolve

CLASSES = ("melanoma", "nevus", "other")
HEADLINES = tuple(tables.HEADLINES)


def predicted(count=60, classes=3, seed=0, image="{label}/{number}.png"):
    rng = np.random.default_rng(seed)
    label = (np.arange(count) % classes).astype(np.int32)
    given = rng.dirichlet(np.ones(classes), count)
    given = (given + np.eye(classes)[label] * rng.uniform(0, 1, (count, 1))).astype(np.float32)
    given /= given.sum(axis=1, keepdims=True)
    names = [image.format(label=one, number=number) for number, one in enumerate(label)]
    return Predictions(np.array(names), (np.arange(count) % 2).astype(np.int32), label, given)


def evaluated(found, names=CLASSES):
    asked = Operating(names[0], 0.9, 0.02)
    points = {names[0]: Point(0.5, 100, "")}
    of_client = {"n": [4, 5], "accuracy": [0.5, 0.6], "balanced_accuracy": [0.25, None]}
    return {
        "round": 2,
        "checkpoint": "best",
        "config": "drawn",
        "seed": 0,
        **per_client.summarize_predictions(found, names, ("Bonn", "Jena")),
        "operating": operating_runs.of_run(found, None, names, points, asked),
        "clients": {**of_client, "loss": [1.5, 1.25], "absent_classes": [[], [names[1]]]},
        "client_names": ["Bonn", "Jena"],
    }


def record(number):
    validation = {"n": 9, "loss": 2.0 / number, "accuracy": 0.5, "balanced_accuracy": 0.25 * number}
    clients = {"client": [0, 1], "steps": [3.0, 3.0]}
    found = {"round": number, "train_loss": 3.0 / number, "validation": validation}
    return {**found, "clients": clients, "bytes_up": 1200, "bytes_down": 1000, "seconds": 0.5}


def experiment(**fields):
    return resolve.complete(config.Experiment(name="drawn", rounds=2, num_clients=2, **fields))


def write_experiment(folder, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"experiment": config.to_dict(experiment(**fields)), "data_dir": "", "data": "da7a"}
    tables.write_json({**saved, "code": "0.1.0+c0de", "test": "7e57"}, folder / "experiment.json")


CONTRIBUTION = {
    "round": 2,
    "rounds": 2,
    "metric": "loss",
    "n": 9,
    "value": {"start": -2.0, "end": -1.0, "by_the_server": 0.0},
    "hospitals": [
        {
            "client": client,
            "name": name,
            "examples": 20,
            "leave_one_out": 0.25,
            "shapley": 0.5,
            "standard_error": 0.125,
            "share": 0.5,
        }
        for client, name in enumerate(("Bonn", "Jena"))
    ],
}


def write_run(folder, names=CLASSES, found=None):
    """Write every file that a report is made of; return the evaluation."""
    folder = Path(folder)
    write_experiment(folder)
    found = predicted(classes=len(names)) if found is None else found
    evaluation = evaluated(found, names)
    tables.write_json(evaluation, folder / "evaluation.json")
    predictions.write(found, names, folder / predictions.NAME)
    lines = "".join(json.dumps(record(number)) + "\n" for number in (1, 2))
    (folder / "metrics.jsonl").write_text(lines)
    classes = [{"name": name, "train": 30, "test": 20, "remark": ""} for name in names]
    audit = {"num_train": 90, "num_test": 60, "classes": classes}
    tables.write_json(audit, folder / "audit.json")
    tables.write_json(CONTRIBUTION, folder / "contribution.json")
    return evaluation


def write_comparison(folder, seeds=(0, 1)):
    """Write what a comparison of two hospitals leaves; return what it found."""
    folder = Path(folder)
    write_experiment(folder / f"seed_{seeds[0]}" / "federated")
    runs = {
        name: [[predicted(seed=10 * place + seed)] for seed in seeds]
        for place, name in enumerate(("federated", "centralized", "local_0", "local_1"))
    }
    runs["local"] = [
        [*one, *two] for one, two in zip(runs["local_0"], runs["local_1"], strict=True)
    ]
    minus = {
        name: {
            other: comparison.difference(runs["federated"], runs[other], name)._asdict()
            for other in ("centralized", "local", "local_0", "local_1")
        }
        for name in ("accuracy", "balanced_accuracy")
    }
    scores = {name: [comparison.scores(run) for run in each] for name, each in runs.items()}
    found = {
        "seeds": list(seeds),
        "names": ["Bonn", "Jena"],
        "absent_classes": [[], ["nevus"]],
        "folds": 0,
        "test_images": 60,
        "steps": {"local": 24.0, "federated": 24.0, "centralized": 24.0},
        "scores": {name: scores[name] for name in ("local", "federated", "centralized")},
        "hospitals": {name: scores[name] for name in ("local_0", "local_1")},
        "federated_minus": minus,
    }
    tables.write_json(found, folder / "comparison.json")
    return found
