"""Tries the variants of a recipe by cross-validation inside Train, and prints a table of them.

Run: python scripts/search_recipe.py rates --config=configs/isic9.py --data_dir=DATA --only=0
     [--config.model.name=efficientnet_lite0 --config.pretrained=imagenet ...]

The first argument is a family of variants (below); all others are those of `fedjax-med
crossvalidate`, such as --only=0, which runs the first of five folds alone. Test is not touched. The
runs are kept in runs/search/FAMILY (or --workdir), and the same command goes on where it stopped.
"""

import argparse
import json
import sys
from pathlib import Path

from studies.markdown import table
from studies.paths import path

from fedjax_med.cli import main as cli
from fedjax_med.evaluation import comparison

# The name of each variant, and the flags that make it.
FAMILIES: dict[str, dict[str, list[str]]] = {
    "rates": {
        f"rate {rate}{', optimizer kept' if keep else ''}": [
            f"--config.client.optimizer.options.learning_rate={rate}",
            f"--config.algorithm.options.keep_optimizer={keep}",
        ]
        for keep in (False, True)
        for rate in (0.0005, 0.001, 0.002)
    },
    "classes": {
        "plain": ["--config.loss.logit_adjustment=0"],
        "logit adjustment 0.5": ["--config.loss.logit_adjustment=0.5"],
        "logit adjustment 1": ["--config.loss.logit_adjustment=1"],
        "class balance 0.999": [
            "--config.loss.logit_adjustment=0",
            "--config.loss.class_balance=0.999",
        ],
    },
    "backbone": {
        f"backbone {rate}": [f"--config.client.backbone_rate={rate}"]
        for rate in (0.2, 0.1, 0.05, 0)
    },
    "smoothing": {
        f"smoothing {share}": [f"--config.loss.label_smoothing={share}"] for share in (0, 0.05, 0.1)
    },
    "average": {f"average {decay}": [f"--config.ema_decay={decay}"] for decay in (0, 0.5, 0.8)},
    "mixing": {
        "nothing mixed": [],
        "mixup 0.2": ["--config.augment.mixup=0.2"],
        "mixup 0.4": ["--config.augment.mixup=0.4"],
        "cutmix 1": ["--config.augment.cutmix=1"],
        "mixup 0.2 or cutmix 1": ["--config.augment.mixup=0.2", "--config.augment.cutmix=1"],
        "erase 0.5": ["--config.augment.erase=0.5"],
    },
    "copies": {f"{copies} copies": [f"--config.augment.copies={copies}"] for copies in (0, 1, 3)},
    "batch": {f"batches of {size}": [f"--config.client.batch_size={size}"] for size in (16, 8)},
    "colours": {
        "colours as they are": [],
        "shades of gray": ["--config.colour_constancy=6"],
    },
    "focal": {f"focal {gamma}": [f"--config.loss.focal={gamma}"] for gamma in (0, 1, 2)},
    "frozen": {
        f"{blocks} blocks frozen": [
            "--config.model.name=efficientnet_lite0",
            f"--config.model.options.frozen_blocks={blocks}",
        ]
        for blocks in (12, 8)
    },
    "backbones": {
        backbones: [f"--config.model.options.backbones={backbones}"]
        for backbones in (
            "efficientnet_lite0",
            "efficientnet_lite2",
            "efficientnet_lite0+efficientnet_lite2",
        )
    },
    "head": {
        "linear": [],
        "linear, dropout 0.5": ["--config.model.options.dropout=0.5"],
        "64 hidden units, dropout 0.5": [
            "--config.model.options.hidden=64",
            "--config.model.options.dropout=0.5",
        ],
    },
    "discriminant": {
        "classifier and discriminant": [],
        "classifier alone": ["--config.model.options.discriminant=0"],
        "discriminant alone": [
            "--config.rounds=1",
            "--config.client.optimizer.options.learning_rate=0",
            "--config.client.optimizer.options.weight_decay=0",
        ],
        "discriminant of all views and copies": ["--config.model.options.discriminant_views=0"],
        "discriminant of 1500 sums": ["--config.model.options.projection=1500"],
        "shrinkage 0.4": ["--config.model.options.shrinkage=0.4"],
        "factor 0.25": ["--config.model.options.discriminant=0.25"],
    },
    "site": {
        f"share {share} of the site's own statistics": [
            f"--config.model.options.own_statistics={share}"
        ]
        for share in (0.0, 0.5, 1.0)
    },
    "decay": {
        f"weight decay {decay}": [f"--config.client.optimizer.options.weight_decay={decay}"]
        for decay in (0.01, 0.1, 1.0)
    },
    "rounds": {f"{rounds} rounds": [f"--config.rounds={rounds}"] for rounds in (8, 12, 20, 30)},
    "size": {f"{side} px": [f"--config.image_size={side}"] for side in (128, 160, 180, 224)},
    "epochs": {f"{number} epochs": [f"--config.client.epochs={number}"] for number in (1, 2, 4)},
}
SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "log_loss")


def main(arguments: list[str]) -> int:
    """Run every variant of the family, then print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--workdir", type=path)
    given, passed = parser.parse_known_args(arguments)
    family = given.family
    folder = given.workdir or Path(f"runs/search/{family}")
    rows = []
    for name, flags in FAMILIES[family].items():
        workdir = folder / name.replace(" ", "_").replace(",", "")
        code = cli.main(["crossvalidate", f"--workdir={workdir}", *passed, *flags])
        if code:
            return code
        result = json.loads((workdir / "crossvalidation.json").read_text())
        rows.append([name, *(comparison.spread([result[key]]) for key in SHOWN)])
    print(f"\n{table(['variant', *SHOWN], rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
