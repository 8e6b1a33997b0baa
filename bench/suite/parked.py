"""What sessions cost that are parked on silent exchanges. Onward alone: the others hold a process or a message for
each.

Every message is for a domain of its own whose only exchange is silent, so that each makes a connection of its own. They
stay open until their limit (5 minutes), far longer than it takes to look at them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .load import Load, Mail
from .measure import Figures, address, name_server, running
from .relays import Onward, Setting
from .scenario import Note, Plan, Scenario
from .sinks import Sink
from .surroundings import Folder
from harness import wait_until

HUNG_NETWORK = "127.16.0.0/12"
LIMIT_S = 120.0
SETTLE_S = 2.0
PER_NETWORK = 5000
# Of 20,000 descriptors the relay keeps so many for submitters as are allowed, by default 4,000.
FEW_SUBMITTERS = {"submission": {"connections_max": 200}}


@dataclass
class Parked(Scenario):
    """One run, which looks at the memory at several counts on its way."""

    name: str = "parked"
    title: str = "Sessions parked on silent exchanges: resident memory each"
    counts: tuple[int, ...] = (1000, 5000, 10_000, 15_000)
    quick_counts: tuple[int, ...] = (1000, 4000)

    def runs(self, plan: Plan) -> int:
        return len(plan.those(("onward",)))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"counts": self.quick_counts if plan.quick else self.counts, "note": "Onward alone"}

    def measure(self, plan: Plan, note: Note) -> None:
        note.run("onward", 0, lambda: self._grow(self.quick_counts if plan.quick else self.counts))

    def _grow(self, counts: tuple[int, ...]) -> Figures:
        records = ["postbox A 127.0.0.1"]
        for number in range(counts[-1]):
            records += [f"d{number} MX 10 mx{number}",
                        f"mx{number} A {address(16 + number // PER_NETWORK, number % PER_NETWORK)}"]
        with Folder() as folder, name_server(folder, records):
            sink = Sink(hung=[HUNG_NETWORK])
            try:
                with running(Onward, folder, Setting(onward=FEW_SUBMITTERS)) as relay:
                    return self._look(relay, sink, counts)
            finally:
                sink.stop()

    @staticmethod
    def _look(relay: Onward, sink: Sink, counts: tuple[int, ...]) -> Figures:
        empty, sent, steps = relay.group.memory_bytes(), 0, []
        for count in counts:
            # Numbers go on from step to step, and with them the domains.
            Load(Mail(size=1000, domains=counts[-1]), count - sent, first=sent).finish(LIMIT_S)
            wait_until(lambda: sink.prefix(HUNG_NETWORK)["hung_open"] >= count, f"{count} parked sessions", LIMIT_S,
                       pause=0.1)
            time.sleep(SETTLE_S)
            sent = count
            used = relay.group.memory_bytes() - empty
            steps.append({"sessions": count, "bytes_each": used / count})
        return {"steps": steps, "kb_each": steps[-1]["bytes_each"] / 1000,
                "growth": steps[-1]["bytes_each"] / steps[0]["bytes_each"],
                "empty_mb": empty / 1e6}
