"""The model card of a bundle, in the form of the Hugging Face hub: YAML, then Markdown."""

import json
from string import Template
from typing import Any

from fedjax_med.errors import printable
from fedjax_med.evaluation.tables import HEADLINES, markdown_table

_SHOWN = {"accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"}  # in the YAML's results
_TAGS = ("federated-learning", "medical-imaging", "image-classification", "jax")

_PAGE = Template("""\
---
library_name: fedjax_med
license: $license
pipeline_tag: image-classification
tags:
$tags
$results---

# $name

A classifier of medical images ($classes classes), trained $how with `fedjax_med`: $rounds rounds,
network `$network`, images of $side x $side pixels.

## Intended use

For research: to compare methods, and to measure how the model does on other images (see *How to
use*). **It is not a medical device.** It must not decide, or help to decide, about a patient. It
knows no other classes than those below, and assigns one of them to every image, whatever it shows.

$class_table

## Training data

$training

## Figures

$figures

## Calibration and operating points

$calibration

## Privacy

$privacy

## How to use

`fedjax-med` reads this folder alone, without the training data; nothing in it is executed$unless.

```sh
fedjax-med predict --model=BUNDLE --images=FOLDER --out=predictions.csv
fedjax-med evaluate --model=BUNDLE --data_dir=OTHER --out=RESULT
```

Weights are in `model.safetensors`, all else is in `bundle.json`.

## Provenance

$provenance
""")


def text(info: dict[str, Any], name: str) -> str:
    """Write the card of a bundle.

    Args:
        info: the content of ``bundle.json``.
        name: of the model.
    """
    experiment, seen = info["experiment"], info["preprocessing"]
    return _PAGE.substitute(
        license=json.dumps(info["license"]),
        tags="\n".join(f"- {tag}" for tag in _TAGS),
        results=_results(info, name),
        name=_words(name),
        classes=len(info["class_names"]),
        how=_how(info["training"]["setting"]),
        rounds=info["provenance"]["round"],
        network=_words(experiment["model"]["name"]).replace("`", ""),
        side=seen["image_size"],
        class_table=_classes(info),
        training=_training(info),
        figures=_figures(info),
        calibration=_calibration(info),
        privacy=privacy(info["privacy"]),
        provenance=_provenance(info),
        unless=" unless\n`--program` asks for `program.stablehlo`" if info.get("program") else "",
    )


def _how(setting: str) -> str:
    federated = setting == "federated"
    return "by federated learning" if federated else f"in the setting {_words(setting)}"


def _words(value: Any) -> str:
    """Return a text that stays in its line and is no markup."""
    shown = printable(str(value), 200)
    return "".join(f"\\{one}" if one in "\\`*_[]<>#|" else one for one in shown)


def _results(info: dict[str, Any], name: str) -> str:
    """Write the figures as the hub's ``model-index``; "" if there are none.

    JSON is YAML, so that no name can end a text early.
    """
    of = info["evaluation"]
    if not of:
        return ""
    metrics = [
        {"type": key, "value": of[key], "name": HEADLINES[key]}
        for key in HEADLINES
        if key in _SHOWN and of.get(key) is not None
    ]
    dataset = {"type": "private", "name": info["experiment"]["dataset"]["name"]}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
    return f"model-index: {json.dumps([{'name': name, 'results': [result]}])}\n"


def _classes(info: dict[str, Any]) -> str:
    per_class = (info["evaluation"] or {}).get("per_class", {})
    rows = []
    for name in info["class_names"]:
        of = per_class.get(name, {})
        cells = [_number(of.get(key)) for key in ("sensitivity", "specificity")]
        rows.append([_words(name), str(of.get("support", "-")), *cells])
    return markdown_table(["class", "test images", "sensitivity", "specificity"], rows)


def _training(info: dict[str, Any]) -> str:
    of = info["training"]
    hospitals = f"{of['clients']} hospital{'s' if of['clients'] != 1 else ''}"
    if of["setting"] != "federated":
        hospitals += f" (setting {_words(of['setting'])})"
    if of["images"] is None:
        return f"Images of {hospitals}; how many is not recorded. The images are not included."
    lines = [f"{of['images']:,} images of {hospitals}, which stayed there; none is included."]
    if of["images_by_client"]:
        rows = [[str(i), f"{count:,}"] for i, count in enumerate(of["images_by_client"])]
        lines += ["", markdown_table(["hospital", "training images"], rows)]
    return "\n".join(lines)


def _figures(info: dict[str, Any]) -> str:
    of = info["evaluation"]
    if not of:
        return f"None: {_words(info['no_evaluation'])}."
    rows = []
    for key, name in HEADLINES.items():
        low, high = of.get("intervals", {}).get(key) or (None, None)
        between = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        rows.append([name, _number(of.get(key)), between])
    return (
        f"On {of['n']:,} test images of the run's own data set. Elsewhere, with other cameras and "
        "other patients, figures are often worse.\n\n"
        + markdown_table(["metric", "value", "95 % interval"], rows)
    )


def _calibration(info: dict[str, Any]) -> str:
    if info["temperature"] is None:
        lines = ["Probabilities are not calibrated."]
    else:
        lines = [f"Probabilities are calibrated by the temperature {info['temperature']:.3f}."]
    if info["calibration_doubt"] and info["temperature"] is not None:
        lines.append(f"It rests on little: {_words(info['calibration_doubt'])}.")
    views = info["tta_views"]
    if views > 1:
        lines.append(f"They are means over {views} mirrored views.")
    if of := info["operating"]:
        rows = [
            [_words(name), _number(row["threshold"]), _words(row["reason"] or "")]
            for name, row in of["classes"].items()
        ]
        lines += ["", f"Thresholds at a specificity of {of['specificity']:g} in validation:", ""]
        lines.append(markdown_table(["class", "threshold", "doubt"], rows))
    return "\n".join(lines)


def privacy(of: dict[str, Any]) -> str:
    """Say what is promised of the training images, or that nothing is."""
    if not of["promised"]:
        return (
            "**No epsilon is promised.** Training had no differential privacy: its training images "
            "may be inferred from the model, in part or as members of the training set."
            + (f" There was noise, but {of['reason']}." if of.get("reason") else "")
        )
    epsilon = of.get("epsilon")
    spent = "no finite epsilon" if epsilon is None else f"epsilon {epsilon:.3g}"
    return (
        f"Differential privacy of each {_words(of['unit'])}: {spent} at delta {of['delta']:.1g} "
        "for all rounds of the run. The promise holds for what training sent. It does not cover "
        "numbers of images, figures, thresholds and the temperature, which have no noise."
    )


def _provenance(info: dict[str, Any]) -> str:
    of = info["provenance"]
    names = {
        "trained_by": "trained by version",
        "exported_by": "exported by version",
        "exported": "exported",
        "checkpoint": "checkpoint",
        "data": "digest of the training data",
        "test": "digest of the test data",
    }
    return "\n".join(f"- {title}: {_words(of.get(key))}" for key, title in names.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
