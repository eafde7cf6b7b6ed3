"""What was measured, as Markdown.

    python benchmarks/as_markdown.py benchmarks/latest.json

prints the tables of ``make bench`` as both READMEs have them.
"""

import json
import sys
from typing import Any

# How many times as fast as each peer a round should be.
TARGETS = {
    "cnn": {"pytorch": 1.3, "pfl": 1.3, "flower": 3, "fedjax": 5},
    "efficientnet_lite0": {"pytorch": 1.5, "pfl": 1.5, "flower": 3, "fedjax": 5},
    "linear": {"pytorch": 5, "pfl": 5, "flower": 50, "fedjax": 10},
}
PEERS = {
    "pytorch": "a bare PyTorch loop",
    "pfl": "pfl 0.6.0",
    "flower": "Flower 1.42, simulation",
    "fedjax": "FedJAX 0.0.17",
}


def _row(one: dict[str, Any]) -> str:
    if "over_seconds" in one:
        limit = f"{one['over_seconds']:.0f}"
        return f"| {one['peer']} | no round within {limit} s | | > {limit} s | |"
    if "not_on" in one:
        return f"| {one['peer']} | not compared on a {one['not_on']} | | | |"
    (them, us), low, high = one["seconds"], min(one["ratios"]), max(one["ratios"])
    first, memory, devices = (
        one[what] for what in ("seconds_to_first_round", "peak_megabytes", "devices")
    )
    peer = one["peer"] if devices[0] == devices[1] else f"{one['peer']} on {devices[0]}"
    return (
        f"| {peer} | {them:.3g} / {us:.3g} | {one['ratio']:.2f} ({low:.2f} to {high:.2f}) | "
        f"{first[0]:.0f} / {first[1]:.0f} s | {memory[0]:.0f} / {memory[1]:.0f} MB |"
    )


def rounds(result: dict[str, Any]) -> str:
    """Markdown: the workload's line and one row a peer; "a / b" is the peer's figure and ours."""
    lines = [
        f"#### {result['workload']}",
        "",
        "| peer | seconds a round (peer / ours) | times as fast (lowest to highest pair) | "
        "first round done after | peak memory |",
        "|---|---|---|---|---|",
        *(_row(one) for one in result["peers"]),
        "",
        f"On {result['device']}. A round is {result['flops'] / 1e9:.3g} GFLOP; matrix products "
        f"reach {result['matrix_peak'] / 1e9:.0f} GFLOP/s.",
    ]
    if result["fraction_of_peak"] is not None:
        lines[-1] += f" Our round reaches {result['fraction_of_peak']:.1%} of that."
    return "\n".join(lines)


def ratios(results: list[dict[str, Any]], targets: bool = False) -> str:
    """Markdown: one row a peer, one column a workload: times as fast, and the target."""
    names = [result["workload"] for result in results]
    lines = ["| beside | " + " | ".join(f"`{name}`" for name in names) + " |"]
    lines += ["|---" * (1 + len(names)) + "|"]
    for peer, said in PEERS.items():
        cells = []
        for result in results:
            ratio = next((one.get("ratio") for one in result["peers"] if one["peer"] == peer), None)
            cell = "-" if ratio is None else f"{ratio:.2f}"
            cells.append(f"{cell} ({TARGETS[result['workload']][peer]})" if targets else cell)
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def published(found: dict[str, Any]) -> list[str]:
    """The tables of one call of `rounds.py`: each workload's, the ratios, those with targets."""
    each = [rounds(result) for result in found["workloads"]]
    return [*each, ratios(found["workloads"]), ratios(found["workloads"], targets=True)]


def growth(results: list[dict[str, Any]]) -> str:
    """Markdown: one row a point."""
    lines = [
        "| along | clients | cohort | local epochs | devices | seconds a round | "
        "ms a client and epoch | first round done after | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        each = 1000 * one["seconds"] / (one["cohort"] * one["epochs"])
        lines.append(
            f"| {one['axis']} | {one['clients']:,} | {one['cohort']:,} | {one['epochs']} | "
            f"{one['devices']} | {one['seconds']:.3g} | {each:.3g} | "
            f"{one['seconds_to_first_round']:.0f} s | {one['peak_megabytes']:,.0f} MB |"
        )
    return "\n".join(lines)


def startup(found: dict[str, list[float]]) -> str:
    """Markdown: one row a start, of seconds from the command on."""
    rows = [f"| {name} | {data:.1f} s | {first:.1f} s |" for name, (data, first) in found.items()]
    return "\n".join(
        ["| caches | images ready after | first round done after |", "|---|---|---|", *rows]
    )


if __name__ == "__main__":
    import paths

    from fedjax_med.errors import UserError

    try:
        print("\n\n".join(published(json.loads(paths.read_text(sys.argv[1])))))
    except UserError as error:
        sys.exit(str(error))
