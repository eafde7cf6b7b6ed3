"""What was measured, as Markdown."""

from typing import Any


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
        f"### {result['workload']}",
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
