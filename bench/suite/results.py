"""What was measured: one flat list of runs in one JSON file, and sums over it."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from .surroundings import ROOT, Folder, file_system_of


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some rounds."""

    median: float
    least: float
    most: float

    def text(self, digits: int = 0, unit: str = "") -> str:
        low, middle, high = (f"{value:,.{digits}f}" for value in (self.least, self.median, self.most))
        return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def machine() -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {"kernel": platform.release().partition("-")[0], "cpus": os.cpu_count(), "cpu": cpu.group(1) if cpu else platform.machine(),
            "memory_mb": int(memory.group(1)) // 1024 if memory else 0, "file_system": file_system_of(Folder.BASE),
            "python": platform.python_version()}


def revision() -> str:
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True,
                          text=True, check=False)
    return done.stdout.strip() or "unknown"


class Results:
    """The runs so far. A run is (scenario, relay, round, figures); a failed one has its reason in `failed`."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @classmethod
    def begin(cls, versions: dict[str, str]) -> "Results":
        return cls({"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": " ".join(sys.argv), "revision": revision(),
                    "machine": machine(), "versions": versions, "scenarios": {}, "runs": []})

    @classmethod
    def load(cls, path: pathlib.Path) -> "Results":
        return cls(json.loads(path.read_text()))

    def save(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.data, indent=1) + "\n")

    def describe(self, scenario: str, title: str, settings: dict[str, Any]) -> None:
        self.data["scenarios"][scenario] = {"title": title, **settings}

    def title(self, scenario: str) -> str:
        return self.data["scenarios"][scenario]["title"]

    def add(self, scenario: str, relay: str, number: int, figures: dict[str, Any]) -> None:
        self.data["runs"].append({"scenario": scenario, "relay": relay, "round": number, "figures": figures})

    # ---- sums ----

    def runs(self, scenario: str, relay: str) -> list[dict[str, Any]]:
        """The figures of the runs that did not fail."""
        return [run["figures"] for run in self.data["runs"]
                if run["scenario"] == scenario and run["relay"] == relay and "failed" not in run["figures"]]

    def failures(self) -> list[tuple[str, str, str]]:
        return [(run["scenario"], run["relay"], run["figures"]["failed"]) for run in self.data["runs"]
                if "failed" in run["figures"]]

    def relays(self, scenario: str) -> list[str]:
        """Who took part, in order."""
        return list(dict.fromkeys(run["relay"] for run in self.data["runs"] if run["scenario"] == scenario))

    def of(self, scenario: str, relay: str, key: str) -> Spread | None:
        return spread([figures[key] for figures in self.runs(scenario, relay) if figures.get(key) is not None])

    def ratio(self, scenario: str, key: str, over: str, under: str) -> Spread | None:
        """Figures of `over` to those of `under`, round by round: rounds are interleaved, so what disturbed one disturbed both."""
        above, below = self.runs(scenario, over), self.runs(scenario, under)
        return spread([a[key] / b[key] for a, b in zip(above, below) if a.get(key) and b.get(key)])
