"""The plots, each from the figures of one run of the bench. One whose scenario is not in the run is left out."""

from __future__ import annotations

import json
import pathlib
from math import log10
from typing import Callable

from .gnuplot import COLOURS, GOAL, INK, NAMES, block, draw, named_lines
from .results import Results
from .surroundings import BENCH

ORDER = ("onward", "postfix", "haraka", "exim")
PARTS = 0.9999  # the end of the axis of percentiles
Script = str | None


def present(results: Results, scenario: str, key: str) -> list[str]:
    return [relay for relay in ORDER if results.of(scenario, relay, key)]


# ---- how fast, at what cost ----


def bars(results: Results, key: str, title: str, unit: str, name: str) -> str:
    """Horizontal bars, one a relay, with the least and greatest of the rounds as a whisker and the median in figures."""
    relays = present(results, "one", key)
    rows = []
    for place, relay in enumerate(reversed(relays)):
        value = results.of("one", relay, key)
        assert value is not None
        rows.append([place, value.median, value.least, value.most, f"{value.median:,.0f}{unit}",
                     int(COLOURS[relay][1:], 16)])
    names = ", ".join(f"'{NAMES[relay]}' {place}" for place, relay in enumerate(reversed(relays)))
    most = max(row[3] for row in rows)
    return block(name, rows) + f"""set title "{title}"
unset xlabel; unset ylabel; set ytics ({names}) scale 0; unset xtics; unset grid; set border 2
set xrange [0:{most * 1.28}]; set yrange [-0.6:{len(rows) - 0.4}]
plot ${name} using ($2/2):1:($2/2):(0.31):6 with boxxyerror fillstyle solid 1.0 noborder linecolor rgb variable, \\
     '' using 2:1:3:4 with xerrorbars pointtype -1 linecolor rgb "{INK}" linewidth 1.2, \\
     '' using 4:1:5 with labels left offset 1,0 textcolor rgb "{INK}"
set xtics; set grid ytics; set border 3
"""


def throughput(results: Results) -> Script:
    if not present(results, "one", "cpu_us"):
        return None
    return ("set multiplot layout 1,2 margins 0.08,0.97,0.06,0.82 spacing 0.12\n"
            + bars(results, "per_s", "Messages a second, end to end: more is better", "", "rate")
            + bars(results, "cpu_us", "CPU time a message (µs): less is better", "", "cpu") + "unset multiplot")


SCENARIOS = (("one", "one destination"), ("reconnecting", "submitters reconnect"),
             ("to-200", "200 destinations"), ("to-10000", "10,000 destinations"),
             ("size-2k", "2 KB"), ("size-100k", "100 KB"), ("size-5m", "5 MB"), ("to-20-each", "20 recipients a message"),
             ("to-100-each", "100 recipients a message"), ("from-1", "one submitter"), ("from-200", "200 submitters"),
             ("tls", "TLS on delivery"), ("far", "100 ms of round trip"))


def scenarios(results: Results) -> Script:
    """Each relay's rate to Postfix's, a row a scenario."""
    shown = [(name, text) for name, text in SCENARIOS if results.ratio(name, "per_s", "onward", "postfix")]
    if not shown:
        return None
    data, plots = "", []
    for relay in ORDER:
        ratios = [(place, results.ratio(name, "per_s", relay, "postfix"))
                  for place, (name, _) in enumerate(reversed(shown))]
        rows = [[place, ratio.median, ratio.least, ratio.most,
                 f"{ratio.median:.0f} x" if ratio.median >= 9.5 else f"{ratio.median:.1f} x"]
                for place, ratio in ratios if ratio]
        if not rows:
            continue
        data += block(relay, rows)
        size = 1.5 if relay == "onward" else 1.0
        plots.append(f"${relay} using 2:1:3:4 with xerrorbars pointtype 7 pointsize {size} linewidth 1.5 linecolor rgb '{COLOURS[relay]}' "
                     f"title '{NAMES[relay]}'")
        if relay == "onward":
            plots.append(f"$onward using 4:1:5 with labels left offset 1.2,0 textcolor rgb '{COLOURS[relay]}'")
    names = ", ".join(f"'{text}' {place}" for place, (_, text) in enumerate(reversed(shown)))
    return data + f"""set title "Messages a second, to Postfix's, in each scenario"
set logscale x; set xrange [0.05:150]; set yrange [-0.7:{len(shown) - 0.3}]; set ytics ({names}) scale 0
set xtics ("1/10" 0.1, "1/3" 0.333, "Postfix = 1" 1, "3 x" 3, "10 x" 10, "30 x" 30, "100 x" 100); set grid xtics ytics
set key outside top center horizontal Left reverse
set arrow from 1,graph 0 to 1,graph 1 nohead linecolor rgb "{COLOURS['postfix']}" linewidth 1
plot {", ".join(plots)}"""


# ---- latency ----


def percentile_axis() -> str:
    marks = ((0.0, "0"), (0.5, "50 %%"), (0.9, "90 %%"), (0.99, "99 %%"), (0.999, "99.9 %%"))
    return ", ".join(f"'{text}' {place(part):.4f}" for part, text in marks)


def place(part: float) -> float:
    """Where a percentile stands: each nine takes as much room as the one before."""
    return -log10(1 - min(part, PARTS))


def curves(results: Results, key: str, title: str, name: str) -> str:
    lines = {}
    for relay in ORDER:
        found = [run[key] for run in results.runs("own", relay) if run.get(key)]
        if found:
            lines[relay] = [[place(part), max(us, 1) / 1000] for part, us in found[-1]["points"] if place(part) <= 3.01]
    data, plots = named_lines(name, lines)
    return data + f"""set title "{title}"
set xtics ({percentile_axis()}); set xrange [0:3.9]; set xlabel "of all messages take no longer"
set logscale y; set yrange [0.1:*]; set ytics ("0.1 ms" 0.1, "1 ms" 1, "10 ms" 10, "100 ms" 100, "1 s" 1000, "10 s" 10000, "100 s" 1e5)
plot {", ".join(plots)}
"""


def latency(results: Results) -> Script:
    if not present(results, "own", "cpu_us"):
        return None
    return ("set multiplot layout 1,2 margins 0.07,0.99,0.15,0.9 spacing 0.09\n"
            + curves(results, "submission", "Submitting: from MAIL to the 250", "in")
            + curves(results, "end_to_end", "End to end: from MAIL to the exchange", "out") + "unset multiplot")


# ---- what much of everything costs ----


def cost(results: Results) -> Script:
    queue = [[run["queued"], run["cpu_us"]] for run in results.runs("backlog", "onward")]
    places = (("own", 1), ("to-200", 200), ("to-10000", 10000))
    lines = {}
    for relay in ORDER:
        rows = [[count, value.median] for name, count in places if (value := results.of(name, relay, "cpu_us"))]
        if len(rows) > 1:
            lines[relay] = rows
    if not lines or len(queue) < 2:
        return None
    data, plots = named_lines("to", lines, points=True)
    queue_data, queue_plots = named_lines("queue", {"onward": queue}, points=True)
    limit = queue[0][1] * 1.25
    return data + queue_data + f"""set multiplot layout 1,2 margins 0.07,0.99,0.15,0.9 spacing 0.08
set title "CPU time a message against destinations"
set logscale xy; set xlabel "destinations"; set xrange [0.7:120000]; set xtics ("1" 1, "200" 200, "10,000" 10000)
set yrange [10:*]; set ytics ("10 µs" 10, "100 µs" 100, "1 ms" 1000, "10 ms" 10000, "100 ms" 1e5)
plot {", ".join(plots)}
set title "CPU time a message against the length of the queue"
unset logscale y; set xlabel "recipients queued meanwhile"; set xrange [700:6e6]; set yrange [0:{limit * 1.4}]
set xtics ("1,000" 1000, "10,000" 1e4, "100,000" 1e5, "a million" 1e6); set ytics autofreq; set format y "%g µs"
set label "goal: 1.25 x" at graph 0.99, first {limit} right offset 0,0.7 textcolor rgb "{GOAL}"
plot {limit} with lines dashtype 2 linewidth 1.5 linecolor rgb "{GOAL}", {", ".join(queue_plots)}
unset multiplot"""


# ---- faults ----


def faults(results: Results) -> Script:
    """Onward's seconds from this run, the peers' from bench/peers/faults.json."""
    ours = {run["row"]: run["took_s"] for run in results.runs("faults", "onward")}
    peers = json.loads((BENCH / "peers" / "faults.json").read_text())
    rows = [row for row in peers["rows"] if row["row"] in ours]
    if not rows:
        return None
    top = len(rows) - 1
    data = block("first", [[ours[row["row"]][0], top - place] for place, row in enumerate(rows)])
    data += block("third", [[ours[row["row"]][2], top - place] for place, row in enumerate(rows)])
    plots = []
    for shift, relay in ((0.22, "postfix"), (0.0, "exim"), (-0.22, "haraka")):
        reached = [[row[relay], top - place + shift] for place, row in enumerate(rows) if row[relay] is not None]
        never = [[peers["beyond_s"], top - place + shift] for place, row in enumerate(rows) if row[relay] is None]
        colour, name = COLOURS[relay], peers["versions"][relay]
        data += block(f"peer_{relay}", reached) + block(f"never_{relay}", never or [[1e9, -9]])
        plots += [f"$peer_{relay} using 1:2 with points pointtype 5 pointsize 0.8 linecolor rgb '{colour}' title '{name}'",
                  f"$never_{relay} using 1:2 with points pointtype 9 pointsize 1.1 linecolor rgb '{colour}'"]
    names = ", ".join(f"'{row['text']}' {top - place}" for place, row in enumerate(rows))
    blue = COLOURS["onward"]
    return data + f"""set title "Seconds until a message arrives whose first exchange ..."
set logscale x; set xrange [0.0005:1500]; set yrange [-0.7:{top + 0.7}]; set ytics ({names}) scale 0; set grid xtics ytics
set xtics ("0.001 s" 0.001, "0.01 s" 0.01, "0.1 s" 0.1, "1 s" 1, "5 s" 5, "30 s" 30, "5 min" 300); set key outside top center horizontal Left reverse
set xlabel "Peers: default settings, measured elsewhere; a triangle: not within {peers['beyond_s']} s" textcolor rgb "#868e96"
plot $first using 1:2 with points pointtype 7 pointsize 1.5 linecolor rgb "{blue}" title "Onward, first message", \\
     $third using 1:2 with points pointtype 6 pointsize 1.3 linewidth 2 linecolor rgb "{blue}" title "third", \\
     {", ".join(plots)}"""


# ---- memory ----


def memory(results: Results) -> Script:
    parked, soak = results.runs("parked", "onward"), results.runs("soak", "onward")
    if not parked or not soak:
        return None
    steps = [[step["sessions"], step["bytes_each"] / 1000] for step in parked[0]["steps"]]
    rate = rates(soak[0]["arrived"])
    held = [[at, size / 1e6] for at, size in soak[0]["memory"]]
    blue = COLOURS["onward"]
    return block("parked", steps) + block("rate", rate) + block("held", held) + f"""
set multiplot layout 1,2 margins 0.06,0.93,0.15,0.9 spacing 0.1
set title "Memory a session parked on a silent exchange"
set xlabel "sessions parked"; set xrange [0:{steps[-1][0] * 1.05}]; set yrange [0:14]; set xtics ("1,000" 1000, "5,000" 5000, "10,000" 10000, "15,000" 15000); set format y "%g KB"
set label "goal: 12 KB" at graph 0.99, first 12 right offset 0,0.7 textcolor rgb "{GOAL}"
plot 12 with lines dashtype 2 linewidth 1.5 linecolor rgb "{GOAL}", \\
     $parked using 1:2 with linespoints pointtype 7 pointsize 0.9 linewidth 2.5 linecolor rgb "{blue}"
unset label; set xtics autofreq
set title "A soak: messages/s and memory over time"
set xlabel "seconds"; set xrange [0:{held[-1][0]}]; set yrange [0:*]; set y2range [0:{max(row[1] for row in held) * 1.7}]; set y2tics; set format y "%g/s"; set format y2 "%g MB"; set border 11; set key bottom right
plot $rate using 1:2 with lines linewidth 2 linecolor rgb "{blue}" title "messages/s", \\
     $held using 1:2 axes x1y2 with lines linewidth 2 linecolor rgb "#f08c00" title "memory"
unset multiplot"""


def rates(arrived: list[list[float]], over: int = 3) -> list[list[float]]:
    """Messages a second over a few samples each."""
    pairs = zip(arrived[:-over:over], arrived[over::over])
    return [[b[0], (b[1] - a[1]) / (b[0] - a[0])] for a, b in pairs if b[0] > a[0]]


PLOTS: dict[str, tuple[Callable[[Results], Script], tuple[int, int]]] = {
    "throughput": (throughput, (960, 260)), "scenarios": (scenarios, (960, 520)), "latency": (latency, (960, 380)),
    "cost": (cost, (960, 380)), "faults": (faults, (960, 480)), "memory": (memory, (960, 360)),
}


def draw_all(results: Results, folder: pathlib.Path) -> list[pathlib.Path]:
    made = []
    for name, (make, size) in PLOTS.items():
        script = make(results)
        if script is not None:
            made += draw(folder, name, script, size)
    return made
