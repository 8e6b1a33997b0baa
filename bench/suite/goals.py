"""The numbers Onward must reach, each beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from .results import Results, Spread
from .scenario import FLOOR

Found = tuple[str, bool] | None  # the figure as text, and whether it holds; None = not measured in this run


@dataclass(frozen=True)
class Goal:
    """One number."""

    what: str
    wanted: str
    find: Callable[[Results], Found]


def at_least(value: Spread | None, goal: float, form: Callable[[Spread], str]) -> Found:
    return (form(value), value.median >= goal) if value else None


def at_most(value: Spread | None, goal: float, form: Callable[[Spread], str]) -> Found:
    return (form(value), value.median <= goal) if value else None


def times(digits: int = 1) -> Callable[[Spread], str]:
    return lambda value: value.text(digits, " x")


def one_run(results: Results, scenario: str, relay: str = "onward") -> dict[str, Any] | None:
    runs = results.runs(scenario, relay)
    return runs[0] if runs else None


def cpu_to_floor(results: Results) -> Found:
    """The relay's CPU time to that of source and sink, which did the same work beside nothing else."""
    keys = (("onward", "cpu_us"), (FLOOR, "load_us"), (FLOOR, "sink_us"))
    relay, source, sink = (results.of("one", *key) for key in keys)
    if not (relay and source and sink):
        return None
    floor = source.median + sink.median
    return f"{relay.median / floor:.2f} x ({relay.median:.0f} of {floor:.0f} us)", relay.median <= floor


def per_sync(results: Results) -> Found:
    syncs = results.of("from-64", "onward", "syncs_each")
    return (f"{1 / syncs.median:.1f}", 1 / syncs.median >= 16) if syncs and syncs.median > 0 else None


def parked(results: Results) -> Found:
    run = one_run(results, "parked")
    if run is None:
        return None
    count = run["steps"][-1]["sessions"]
    return f"{run['kb_each']:.1f} KB at {count:,}, {run['growth']:.2f} x that at {run['steps'][0]['sessions']:,}", run["kb_each"] <= 12


def queued(results: Results) -> Found:
    runs = results.runs("backlog", "onward")
    if len(runs) < 2:
        return None
    first, last = runs[0], runs[-1]
    each = (last["memory_bytes"] - first["memory_bytes"]) / (last["queued"] - first["queued"])
    return f"{each:.0f} bytes at {last['queued']:,}", each <= 300


def queue_cost(results: Results) -> Found:
    runs = results.runs("backlog", "onward")
    if len(runs) < 2:
        return None
    ratio = runs[-1]["cpu_us"] / runs[0]["cpu_us"]
    return f"{ratio:.2f} x ({runs[0]['cpu_us']:.0f}, {runs[-1]['cpu_us']:.0f} us)", ratio <= 1.25


def start(results: Results) -> Found:
    run = one_run(results, "backlog", "onward-due")
    return (f"{run['first_s']:.2f} s with {run['queued']:,}", run["first_s"] <= 5) if run else None


def destination_cost(results: Results) -> Found:
    """A connection for each message at both: how many are kept depends on how often a destination comes."""
    one, many, kept = (results.of(name, "onward", "cpu_us") for name in ("each-1", "each-10000", "own"))
    if not (one and many):
        return None
    beside = f"; {kept.median:.0f} us where connections are kept" if kept else ""
    return f"{many.median / one.median:.2f} x ({one.median:.0f}, {many.median:.0f} us{beside})", many.median / one.median <= 1.25


def origin(results: Results) -> Found:
    run = one_run(results, "origin")
    return (f"{run['seconds']:.2f} s", run["seconds"] <= 5.1) if run else None


def faults(results: Results) -> Found:
    runs = results.runs("faults", "onward")
    held = sum(run["held"] for run in runs)
    return (f"{held} of {len(runs)}", held == len(runs)) if runs else None


def nothing_lost(results: Results) -> Found:
    """Over all runs with our sink, which knows each message."""
    bad = {key: sum(run["figures"].get(key) or 0 for run in results.data["runs"])
           for key in ("lost", "duplicates", "damaged")}
    checked = sum("lost" in run["figures"] for run in results.data["runs"])
    text = ", ".join(f"{count} {key}" for key, count in bad.items())
    return (f"{text} in {checked} runs", not any(bad.values())) if checked else None


GOALS = (
    Goal("messages/s end to end, to Postfix's", ">= 15 x",
         lambda r: at_least(r.ratio("one", "per_s", "onward", "postfix"), 15, times())),
    Goal("Postfix's CPU a message, to ours", ">= 25 x",
         lambda r: at_least(r.ratio("one", "cpu_us", "postfix", "onward"), 25, times())),
    Goal("CPU a message, to smtp-source + smtp-sink", "<= 1.0 x", cpu_to_floor),
    Goal("messages a sync, 64 submitters", ">= 16", per_sync),
    Goal("resident memory a parked session", "<= 12 KB, flat", parked),
    Goal("memory a queued recipient", "<= 300 bytes", queued),
    Goal("CPU a message at 10,000 destinations, to that at one, a connection for each message at both", "<= 1.25 x",
         destination_cost),
    Goal("CPU a message with the longest queue, to that with 1,000", "<= 1.25 x", queue_cost),
    Goal("first delivery after a start, all of the queue due", "<= 5 s", start),
    Goal("100 ms of round trip: messages/s, to Postfix's", ">= 2.8 x",
         lambda r: at_least(r.ratio("far", "per_s", "onward", "postfix"), 2.8, times())),
    Goal("30 % of exchanges hung: rate of the others, to that with none hung", ">= 0.95 x",
         lambda r: at_least(hung_to_well(r), 0.95, times(2))),
    Goal("the origin's case: seconds to delivery", "<= 5 s", origin),
    Goal("faults of a first exchange within their limits", "all", faults),
    Goal("mail lost, doubled or damaged, all relays", "none", nothing_lost),
)


def hung_to_well(results: Results) -> Spread | None:
    """Round by round."""
    pairs = {f"onward{suffix}": results.runs("thirty", f"onward{suffix}") for suffix in ("", "-hung")}
    ratios = [hung["per_s"] / well["per_s"] for well, hung in zip(pairs["onward"], pairs["onward-hung"])]
    return Spread(sorted(ratios)[len(ratios) // 2], min(ratios), max(ratios)) if ratios else None
