"""The look that all plots share, and running gnuplot."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from typing import Iterable, Sequence

from .surroundings import require

FONT = "Helvetica,Arial,sans-serif"
INK, FAINT, GOAL = "#343a40", "#ced4da", "#e03131"
COLOURS = {"onward": "#1971c2", "postfix": "#868e96", "exim": "#e8a33d", "haraka": "#9c6bc4", "floor": "#adb5bd"}
NAMES = {"onward": "Onward", "postfix": "Postfix", "exim": "Exim", "haraka": "Haraka", "floor": "source into sink"}

STYLE = f"""set encoding utf8
set border 3 linecolor rgb "{FAINT}" linewidth 1
set tics nomirror scale 0.4 textcolor rgb "{INK}"
set grid ytics linecolor rgb "#e3e6e9" linewidth 1 dashtype solid
set key textcolor rgb "{INK}" noautotitle samplen 1.5 spacing 1.25
set title textcolor rgb "{INK}" font ":Bold" offset 0,-0.2
set xlabel textcolor rgb "{INK}"
set ylabel textcolor rgb "{INK}"
set label textcolor rgb "{INK}"
"""


def block(name: str, rows: Iterable[Sequence[object]]) -> str:
    """A named data block; texts with spaces are quoted."""
    lines = [" ".join(f'"{item}"' if isinstance(item, str) else f"{item:.6g}" for item in row) for row in rows]  # type: ignore[str-format]
    return f"${name} << EOD\n" + "\n".join(lines) + "\nEOD\n"


def named_lines(name: str, lines: dict[str, list[list[float]]], points: bool = False) -> tuple[str, list[str]]:
    """Data and plots of lines with each relay's name at its end. The y axis is logarithmic: names keep a distance of half as much again."""
    data, plots, last = "", [], 0.0
    for relay, rows in sorted(lines.items(), key=lambda line: line[1][-1][1]):
        x, y = rows[-1]
        last = max(y, last * 1.5)
        width, colour = (3 if relay == "onward" else 2), COLOURS[relay]
        style = f"linespoints pointtype 7 pointsize 0.8 linewidth {width}" if points else f"lines linewidth {width}"
        data += block(f"{name}_{relay}", rows) + block(f"{name}_{relay}_end", [[x, last, NAMES[relay]]])
        plots += [f"${name}_{relay} using 1:2 with {style} linecolor rgb '{colour}'",
                  f"${name}_{relay}_end using 1:2:3 with labels left offset 0.8,0 textcolor rgb '{colour}'"]
    return data, plots


def draw(folder: pathlib.Path, name: str, script: str, size: tuple[int, int]) -> list[pathlib.Path]:
    """Writes NAME.svg and NAME.png."""
    require(shutil.which("gnuplot") is not None, "gnuplot is missing; get it with: apt-get install gnuplot-nox")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for terminal, scale, ending in (("svg", 1.0, "svg"), ("pngcairo", 1.6, "png")):
        path = folder / f"{name}.{ending}"
        wide, high = (int(length * scale) for length in size)
        options = f"size {wide},{high} font '{FONT},13' background rgb '#ffffff'"
        if terminal == "pngcairo":
            options = f"size {wide},{high} font 'Helvetica,10' fontscale {scale} linewidth {scale} pointscale {scale} background rgb '#ffffff'"
        whole = f"set terminal {terminal} {options}\nset output '{path}'\n{STYLE}\n{script}\n"
        done = subprocess.run(["gnuplot"], input=whole, capture_output=True, text=True, check=False)
        if done.returncode != 0 or "line" in done.stderr:
            raise AssertionError(f"gnuplot, {name}: {done.stderr.strip()}")
        made.append(path)
    return made
