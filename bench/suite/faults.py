"""How long a message takes when the first exchange of its domain misbehaves, for every fault the end-to-end tests know.

Each row has a relay of its own, just started, a first exchange with the fault and a second one that is well. Three
messages go out one after the other: to a stranger, to a suspect, to a host known to be ill. The exchanges, and what
each row may take, are those of tests/e2e/test_failover.py. The peers' seconds are not measured here but in
bench/peers/faults.json, which says where.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .measure import Figures
from .scenario import Note, Plan, Scenario
from harness import World, content_of, wait_until
from test_failover import CARRIED_PER_S, ROUNDS, ROWS, SENDER, Row

ARRIVAL_LIMIT_S = 30.0
GRACE_S = 0.05  # the submitter's own end, a commit and a look at the file of what arrived
QUICK_ROWS = ("accepts_and_never_greets", "greets_with_garbage", "refuses_connections", "silent_after_data")


@dataclass
class Faults(Scenario):
    """One run a row, named for it."""

    name: str = "faults"
    title: str = "Time to delivery when the first exchange misbehaves: first, second and third message, in seconds"

    def _rows(self, plan: Plan) -> list[Row]:
        if not plan.those(("onward",)):
            return []
        return [row for row in ROWS if row.name in QUICK_ROWS or not plan.quick]

    def runs(self, plan: Plan) -> int:
        return len(self._rows(plan))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"rows": [row.name for row in self._rows(plan)],
                "note": "Onward alone; the peers' times are those of bench/peers/faults.json"}

    def measure(self, plan: Plan, note: Note) -> None:
        for number, row in enumerate(self._rows(plan)):
            note.run("onward", number, lambda: {"row": row.name, **once(row)})


def once(row: Row) -> Figures:
    world = World(delivery={"idle": "10ms"})
    try:
        first = world.exchange(row.behaviour) if row.behaviour else world.silent_address()
        second = world.exchange("good")
        domain = world.mx("row", first, second)
        relay = world.start()
        took = []
        for number in range(ROUNDS):
            sent = relay.send(SENDER, [f"r@{domain}"], f"m{number}", content_of(row.bytes))
            taken = world.wait_accepted(f"m{number}", limit=ARRIVAL_LIMIT_S)
            took.append(taken[0]["t"] - sent)
            wait_until(lambda: not world.exchanges.open_now(second), "the kept connection to end")
            time.sleep(0.05)
        return {"took_s": took, "allowed_s": list(row.seconds), "held": is_held(row, took)}
    finally:
        world.cleanup(None)


def is_held(row: Row, took: list[float]) -> bool:
    carrying = row.bytes / CARRIED_PER_S
    return all(seconds <= allowed + carrying + GRACE_S for seconds, allowed in zip(took, row.seconds))
