"""The tables that a run ends with; `bench/plot` writes the same as Markdown."""

from __future__ import annotations

from typing import Any

from .goals import GOALS
from .results import Results, Spread
from .scenario import FLOOR

COLUMNS = (("messages/s", "per_s", 0), ("accepted/s", "accepted_per_s", 0), ("CPU us a message", "cpu_us", 0),
           ("peak MB", "peak_mb", 0), ("syncs", "syncs_each", 3), ("switches", "switches_each", 1), ("system calls", "calls_each", 0))


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def cell(value: Spread | None, digits: int) -> str:
    return value.text(digits) if value else "-"


def others_us(results: Results, scenario: str, relay: str) -> str:
    """What source and sink took beside the relay: are they the bottleneck?"""
    source, sink = (results.of(scenario, relay, key) for key in ("load_us", "sink_us"))
    return f"{source.median:.0f} + {sink.median:.0f}" if source and sink else "-"


def floor_row(results: Results, scenario: str) -> list[str]:
    rate = results.of(scenario, FLOOR, "per_s")
    if rate is None:
        return []
    return ["source into sink", rate.text(), *["-"] * (len(COLUMNS) - 1), "-", "-", others_us(results, scenario, FLOOR)]


def milliseconds(results: Results, scenario: str, relay: str, key: str) -> str:
    """Median and 99th percentile of the last round's histogram."""
    histograms = [run[key] for run in results.runs(scenario, relay) if run.get(key)]
    if not histograms:
        return "-"
    return f"{histograms[-1]['p50_us'] / 1000:.1f} / {histograms[-1]['p99_us'] / 1000:.1f}"


def throughput(results: Results, scenario: str) -> str:
    rows = [["", *(name for name, _, _ in COLUMNS), "x Postfix", "ms to 250, p50 / p99", "source + sink us"]]
    for relay in results.relays(scenario):
        if relay == FLOOR:
            continue
        ratio = results.ratio(scenario, "per_s", relay, "postfix")
        rows.append([relay, *(cell(results.of(scenario, relay, key), digits) for _, key, digits in COLUMNS),
                     cell(ratio, 2), milliseconds(results, scenario, relay, "submission"), others_us(results, scenario, relay)])
    floor = floor_row(results, scenario)
    return table(rows + [floor] if floor else rows)


def special(results: Results, scenario: str) -> str:
    """The scenarios of another shape: each run in a line, its plain figures only."""
    lines = []
    for run in results.data["runs"]:
        if run["scenario"] == scenario:
            figures = run["figures"]
            shown = [f"{key} {short(value)}" for key, value in figures.items()
                     if isinstance(value, (int, float, str)) or key in LISTS]
            lines.append(f"- {run['relay']}: " + ", ".join(shown))
    return "\n".join(lines)


LISTS = ("took_s", "steps")


def short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.0f}"
    if isinstance(value, list):
        return " / ".join(short(item) if not isinstance(item, dict) else ", ".join(short(one) for one in item.values()) for item in value)
    return str(value)


def goals(results: Results) -> str:
    rows = [["", "goal", "measured", ""]]
    for goal in GOALS:
        found = goal.find(results)
        rows.append([goal.what, goal.wanted, found[0] if found else "not in this run",
                     ("held" if found[1] else "MISSED") if found else ""])
    return table(rows)


def head(results: Results) -> str:
    machine = results.data["machine"]
    versions = "; ".join(results.data["versions"].values())
    return (f"{results.data['when']}, {results.data['command']}, revision {results.data['revision']}\n"
            f"{machine['cpus']} x {machine['cpu']}, {machine['memory_mb']} MB, Linux {machine['kernel']}, {machine['file_system']}\n"
            f"{versions}\nEach figure: median (least to greatest) of the rounds. CPU and memory are the relay's alone; syncs, context "
            "switches\nand system calls are a message's.")


def text(results: Results) -> str:
    parts = [head(results)]
    for scenario, about in results.data["scenarios"].items():
        body = throughput(results, scenario) if "workload" in about else special(results, scenario)
        note = f"\n({about['note']})" if about.get("note") else ""
        parts.append(f"### {about['title']}{note}\n\n{body}")
    parts.append(f"### Goals\n\n{goals(results)}")
    failures = results.failures()
    if failures:
        lines = [f"- {scenario}, {relay}: {why}" for scenario, relay, why in failures]
        parts.append("### Failed runs\n\n" + "\n".join(lines))
    return "\n\n".join(parts)
