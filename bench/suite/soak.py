"""The same load for a long time: does memory grow, does the rate fall? Short by default (ONWARD_SOAK_S=3600 for an
hour).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from .accounting import Watch
from .load import Load, Mail
from .measure import Figures, name_server, records_of, running, Workload
from .relays import Onward, Setting
from .scenario import Note, Plan, Scenario
from .sinks import Sink
from .surroundings import Folder

PAUSE_S = 1.0
DRAIN_LIMIT_S = 60.0


@dataclass
class Soak(Scenario):
    """Mail of 4 KB to 200 domains as fast as it is taken, looked at every second."""

    name: str = "soak"
    title: str = "A soak: memory and messages/s over time"
    seconds: int = int(os.environ.get("ONWARD_SOAK_S", "180"))

    def runs(self, plan: Plan) -> int:
        return 0 if plan.quick else len(plan.those(("onward",)))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"seconds": self.seconds, "note": "Onward alone"}

    def measure(self, plan: Plan, note: Note) -> None:
        note.run("onward", 0, self._once)

    def _once(self) -> Figures:
        mail = Mail(size=4096, domains=200)
        with Folder() as folder, name_server(folder, records_of(Workload(mail))):
            sink = Sink()
            try:
                with running(Onward, folder, Setting(onward={"log": {"deliveries": False}})) as relay, \
                        Watch(relay.group, PAUSE_S) as memory:
                    load = Load(mail, 0, seconds=self.seconds)
                    arrived = self._look(sink)
                    accepted = load.finish(DRAIN_LIMIT_S)["accepted"]
                    sink.goal("a", accepted)
                    sink.wait_goal("a", DRAIN_LIMIT_S)
                    duplicates = sink.group("a")["duplicates"]
                samples = memory.samples
            finally:
                sink.stop()
        return {"per_s": accepted / self.seconds, "duplicates": duplicates, "arrived": arrived,
                "memory": [[at, size] for at, size in samples], "growth": growth(samples)}

    def _look(self, sink: Sink) -> list[list[float]]:
        """Seconds and how many had arrived, every second."""
        began, seen = time.monotonic(), []
        while time.monotonic() < began + self.seconds:
            seen.append([time.monotonic() - began, sink.group("a")["messages"]])
            time.sleep(PAUSE_S)
        return seen


def growth(samples: list[tuple[float, int]]) -> float:
    """The highest memory of the last third to that of the middle one."""
    third = max(1, len(samples) // 3)
    middle, last = samples[third:2 * third] or samples, samples[2 * third:] or samples
    return max(size for _, size in last) / max(1, max(size for _, size in middle))
