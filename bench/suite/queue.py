"""What a long queue costs: memory, the start, looking into it, and the mail that goes on meanwhile. Onward alone: to
put a million messages into the others would take hours.

The spool is filled by bench/tools/fill.c in the format of the relay's own. It is measured twice: with mail that waits
for its next attempt, beside the same with a thousand queued; and with all of it due at the start.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Iterator

from .load import Load, Mail
from .measure import SETTLE_S, Figures, name_server, running
from .relays import Onward, Setting
from .scenario import Note, Plan, Scenario
from .sinks import Sink
from .surroundings import EXCHANGE, TOOLS, Folder
from harness import ORIGIN, wait_until

BODY_BYTES, WAIT_S = 1000, 7200
DRAINED = 20000
LIMIT_S = 300.0


@dataclass
class Backlog(Scenario):
    """One run a length of the queue, and one with everything due."""

    name: str = "backlog"
    title: str = "A long queue: what a queued recipient costs, and what mail costs meanwhile"
    lengths: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    quick_lengths: tuple[int, ...] = (1000, 200_000)
    domains: int = 1000
    messages: int = 30000

    def _lengths(self, plan: Plan) -> tuple[int, ...]:
        return self.quick_lengths if plan.quick else self.lengths

    def runs(self, plan: Plan) -> int:
        return (len(self._lengths(plan)) + 1) * len(plan.those(("onward",)))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"lengths": self._lengths(plan), "domains": self.domains, "note": "Onward alone"}

    def measure(self, plan: Plan, note: Note) -> None:
        messages = self.messages // (3 if plan.quick else 1)
        for number, length in enumerate(self._lengths(plan)):
            note.run("onward", number, lambda: self._waiting(length, messages))
        note.run("onward-due", 0, lambda: self._due(self._lengths(plan)[-1]))

    def _waiting(self, length: int, messages: int) -> Figures:
        with self._started(length, WAIT_S) as (relay, sink, start_s):
            began = time.monotonic() - start_s
            # The queue is taken in while mail goes on; looked at is what it costs when all of it is there.
            wait_until(lambda: self._queued(relay) >= length, "the queue to be taken in", LIMIT_S, pause=0.1)
            loaded_s = time.monotonic() - began
            memory = relay.group.memory_bytes()
            began = time.monotonic()
            if relay.ask("queue", "list", "--domain", f"absent.{ORIGIN}"):
                raise AssertionError("nothing should match")
            search_s = time.monotonic() - began
            self._send(sink, self.domains, "w")
            time.sleep(SETTLE_S)
            cpu = relay.group.cpu_s()
            took = self._send(sink, messages, "n")
            time.sleep(SETTLE_S)
            return {"queued": length, "start_s": start_s, "loaded_s": loaded_s, "memory_bytes": memory,
                    "search_s": search_s, "per_s": messages / took,
                    "cpu_us": (relay.group.cpu_s() - cpu) / messages * 1e6}

    @staticmethod
    def _queued(relay: Onward) -> int:
        return int(relay.ask("status")[0]["spool"]["recipients_queued"])

    def _send(self, sink: Sink, messages: int, group: str) -> float:
        sink.goal(group, messages)
        began = Load(Mail(size=BODY_BYTES, domains=self.domains), messages, group).finish(LIMIT_S)["began_s"]
        return sink.wait_goal(group, LIMIT_S) - began

    def _due(self, length: int) -> Figures:
        with self._started(length, 0) as (_, sink, start_s):
            began = time.monotonic() - start_s
            first_s = sink.wait_goal("b", LIMIT_S) - began
            drained = min(DRAINED, length)
            sink.goal("b", drained)
            return {"queued": length, "start_s": start_s, "first_s": first_s,
                    "per_s": drained / max(sink.wait_goal("b", LIMIT_S) - began - first_s, 0.001)}

    @contextlib.contextmanager
    def _started(self, length: int, due_s: int) -> Iterator[tuple[Onward, Sink, float]]:
        """A relay on a spool with so much in it, and how long its start took."""
        records = [f"mx A {EXCHANGE}", "postbox A 127.0.0.1",
                   *(f"d{number} MX 10 mx" for number in range(self.domains))]
        with Folder() as folder, name_server(folder, records):
            spool = folder / "spool"
            fill(spool, length, self.domains, due_s)
            sink = Sink()
            sink.goal("b", 1)
            began = time.monotonic()
            try:
                with running(Onward, folder, Setting(onward={"spool": {"path": str(spool)}})) as relay:
                    assert isinstance(relay, Onward)
                    yield relay, sink, time.monotonic() - began
            finally:
                sink.stop()


def fill(spool: pathlib.Path, length: int, domains: int, due_s: int) -> None:
    subprocess.run([TOOLS / "fill", spool, str(length), str(domains), ORIGIN, str(BODY_BYTES), str(due_s)], check=True)
