"""How long transactional mail takes while a queue of bulk mail is carried: from its 250 to its delivery, by the
relay's own log. Onward alone. The same messages are sent as bulk too, to see what the priority is worth."""

from __future__ import annotations

import json
import pathlib
import smtplib
import time
from dataclasses import dataclass

from .measure import Figures
from .queue import Backlog
from .scenario import Note, Plan
from .surroundings import RELAY
from harness import ORIGIN, wait_until

SPACING_S = 0.02
LIMIT_S = 600.0


@dataclass
class Priority(Backlog):
    """One run: all of the queue is due at the start, and codes come one by one meanwhile."""

    name: str = "priority"
    title: str = "A one-time code behind a queue of bulk mail"
    lengths: tuple[int, ...] = (1_000_000,)
    quick_lengths: tuple[int, ...] = (200_000,)
    messages: int = 1000

    def runs(self, plan: Plan) -> int:
        return 2 * len(plan.those(("onward",)))

    def measure(self, plan: Plan, note: Note) -> None:
        for name, priority in (("onward", "transactional"), ("onward-as-bulk", "bulk")):
            note.run(name, 0, lambda: self._codes(self._lengths(plan)[0], priority))

    def _codes(self, length: int, priority: str) -> Figures:
        count = self.messages if priority == "transactional" else 20  # these wait for the whole queue
        with self._started(length, 0) as (relay, sink, _):
            sink.wait_goal("b", LIMIT_S)
            queued = self._queued(relay)
            with smtplib.SMTP(*RELAY) as client:
                for number in range(count):
                    client.sendmail(f"sender@postbox.{ORIGIN}", [f"code@d{number % self.domains}.{ORIGIN}"],
                                    f"X-Priority-Class: {priority}\r\nSubject: code\r\n\r\n{number}\r\n")
                    time.sleep(SPACING_S)
            ages = wait_until(lambda: (found := delivered(relay.folder / "onward.log")) and len(found) >= count and found,
                              "the codes to be delivered", LIMIT_S, pause=1.0)
            ages.sort()
            return {"queued": queued, "codes": count, "median_ms": ages[len(ages) // 2],
                    "p99_ms": ages[len(ages) * 99 // 100], "max_ms": ages[-1], "left": self._queued(relay)}


def delivered(log: pathlib.Path) -> list[int]:
    """Milliseconds from 250 to delivery of each code in the log."""
    with open(log, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if '"delivered"' in line and '"code@d' in line and line.endswith("\n")]
    return [line["age_ms"] for line in lines]
