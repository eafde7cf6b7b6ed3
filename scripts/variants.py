"""Trains the variants of a config file, and compares what they give with what their table expects.

Run: python scripts/variants.py [NAME ...] [--config=configs/lesions.py] [--workdir=runs/variants]
     python scripts/variants.py --write

Without names all variants are trained, which takes about an hour for those of configs/lesions.py on
two CPU cores; given again it goes on where it stopped. All other flags are those of `fedjax-med
train`. The exit code is 1 if a result differs by more than --tolerance from the expected one: the
last bits depend on the machine and on its number of cores, and training makes them larger.

--write trains nothing and writes docs/variants.md from the tables of all config files.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.paths import path

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment import config_file
from fedjax_med.experiment.config import Spec
from fedjax_med.experiment.variants import Variant

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "variants.md"
HEAD = """# Variants of the experiments

Written by `python scripts/variants.py --write` from the table `VARIANTS` of each file in
`configs/`. A variant is its file's experiment with these fields changed; `--config=FILE:VARIANT`
selects it. The expected results are on the test set, by the command above each table.
"""
NOTES = {
    "lesions": "The base: balanced accuracy 0.895. `python scripts/variants.py [NAME ...]`\n"
    "measures the variants and compares; the last digits depend on the machine.\n",
    "isic9_pretrained": "Mean over the seeds 0, 1 and 2; measured, as the base, by the command in\n"
    "[results.md](results.md).\n",
}


def found(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Take the results of an ``evaluation.json`` that variants may expect."""
    results = {"balanced_accuracy": evaluation["balanced_accuracy"]}
    if "privacy" in evaluation:
        results["epsilon"] = evaluation["privacy"]["epsilon"]
    for backdoor in evaluation.get("backdoors", ()):
        results["backdoor_success"] = backdoor["success"]
    return results


def compare(
    expected: Mapping[str, float], results: Mapping[str, float], tolerance: float
) -> list[tuple[str, float, float, bool]]:
    """Compare results with the expected ones: (name, expected, found, within the tolerance)."""
    return [
        (name, value, results[name], abs(results[name] - value) <= tolerance)
        for name, value in expected.items()
    ]


def table(head: str, rows: Sequence[tuple[str, ...]]) -> str:
    """Format a table of Markdown; `head` has the names of the columns, separated by commas."""
    columns = tuple(head.split(","))
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document() -> str:
    """Describe the variants of all config files."""
    parts = [HEAD]
    for file in sorted((ROOT / "configs").glob("*.py")):
        if variants := config_file.variants(str(file)):
            data = " --data_dir=DATA" if "isic9" in file.stem else ""
            command = f"fedjax-med train --config=configs/{file.name}:VARIANT{data} --evaluate"
            rows = [row(name, variant) for name, variant in variants.items()]
            parts += [f"## configs/{file.name}\n", f"```sh\n{command}\n```\n"]
            parts += [
                NOTES.get(file.stem, ""),
                table("variant,what it is,changes,expected", rows) + "\n",
            ]
    return "\n".join(parts)


def row(name: str, variant: Variant) -> tuple[str, ...]:
    """Describe a variant in the cells of a row."""
    changes = [f"`{field}={shown(value)}`" for field, value in variant.changes.items()]
    expected = [
        f"{of.replace('_', ' ')} {value:.{2 if value > 1 else 3}f}"
        for of, value in variant.expected.items()
    ]
    return f"`{name}`", variant.about, ", ".join(changes), ", ".join(expected) or "not measured yet"


def shown(value: Any) -> str:
    """Show the new value of a field: a component as ``name(options)``, a group by what differs."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, Spec):
        options = ", ".join(f"{option}={given}" for option, given in value.options.items())
        return f"{value.name}({options})" if options else value.name
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        default = vars(kind())
        differs = [f"{name}={of}" for name, of in vars(value).items() if of != default[name]]
        return f"({', '.join(differs)})"
    return str(value)


def main(arguments: list[str]) -> int:
    """Train the variants and print the table, or write the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--config", default=str(ROOT / "configs" / "lesions.py"))
    parser.add_argument("--workdir", type=path, default="runs/variants")
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--write", action="store_true")
    given, passed = parser.parse_known_args(arguments)
    if given.write:
        OUT.write_text(document())
        print(f"Written: {OUT}")
        return 0
    try:
        variants = config_file.variants(given.config)
        for name in given.names:
            check_name(name, variants, f"the variants of {given.config}")
    except UserError as error:
        parser.error(str(error))
    rows, good = [], True
    for name in given.names or variants:
        workdir = given.workdir / name
        flags = [f"--config={given.config}:{name}", "--evaluate", f"--workdir={workdir}"]
        if code := cli.main(["train", *flags, *passed]):
            return code
        results = found(json.loads((workdir / "evaluation.json").read_text()))
        for of, expected, value, ok in compare(variants[name].expected, results, given.tolerance):
            rows.append((name, of, f"{expected}", f"{value:.3f}", "yes" if ok else "NO"))
            good &= ok
    print("\n" + table("variant,result,expected,found,ok", rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
