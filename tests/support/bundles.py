"""A bundle of an untrained network, and a run small enough to be exported in a test."""

import jax
import numpy as np

from fedjax_med.artifact import bundle, export, predict, program, tensors
from fedjax_med.experiment.config import Experiment, Spec, to_dict

NAMES = ["nevus", "melanoma", "a, b"]


def info_of(experiment, names=NAMES, **changes):
    """The content of bundle.json, but the digests of the files."""
    found = bundle.shapes(experiment, len(names))
    return {
        "format": "fedjax_med bundle",
        "version": 1,
        "experiment": to_dict(experiment),
        "class_names": names,
        "preprocessing": bundle.preparation(experiment, found.below or found.model),
        "tta_views": experiment.tta_views,
        "temperature": None,
        "calibration_doubt": "",
        "operating": None,
        "evaluation": None,
        "no_evaluation": "the run was not evaluated",
        "training": {
            "setting": "federated",
            "clients": 2,
            "images": 30,
            "images_by_client": [20, 10],
        },
        "privacy": {"promised": False},
        "provenance": {"round": 3, "checkpoint": "last"},
        "license": "apache-2.0",
    } | changes


def write(out, experiment=None, names=NAMES, params=None, with_program=False, **changes):
    """Write such a bundle into the folder `out`; return its experiment and parameters."""
    experiment = experiment or Experiment(
        image_size=16, model=Spec("cnn", {"widths": [4], "groups": 2}), tta_views=2
    )
    shapes = bundle.shapes(experiment, len(names))
    if params is None:
        params = shapes.model.init(jax.random.key(1), (experiment.image_size,) * 2 + (3,))
    values = {name: np.asarray(one) for name, one in tensors.named(params, "model").items()}
    info, compiled = info_of(experiment, names, **changes), b""
    if with_program:
        whole = bundle.assembled(out, info, shapes, values)
        compiled, info["program"] = program.build(whole, predict.predict_pixels)
    export.write(out, info, values, compiled)
    return experiment, params
