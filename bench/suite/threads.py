"""Which thread works how much for a message, with one worker and with two: what would bind on a machine with more cores.

Workers share the mail, and there are as many as cores. Of the others there is one each: what it takes for a message says how
many messages a second a machine could ever carry, whatever its cores. Its context switches say whether it is kept waiting:
one that waits for a lock or for the disk switches where one that computes does not.
"""

from __future__ import annotations

import pathlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from .load import Mail
from .measure import SETTLE_S, Figures, Workload, name_server, receiver, records_of, running, send, warm_up
from .relays import Onward, Setting
from .scenario import Note, Plan, Scenario
from .surroundings import Folder

WORKER = "worker"


def nanoseconds(pid: int) -> dict[str, int]:
    """CPU time so far by the name of the thread; all workers are one."""
    times: dict[str, int] = defaultdict(int)
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        used = int((task / "schedstat").read_text().split()[0])
        times[WORKER if name.startswith(WORKER) else name] += used
    return times


@dataclass
class Threads(Scenario):
    """A run for each number of workers."""

    name: str = "threads"
    title: str = "CPU a message by thread, 200 destinations: what would bind on more cores"
    cases: tuple[tuple[int, int], ...] = ((1, 64), (2, 64), (2, 500))  # workers, submitters
    messages: int = 40000

    def runs(self, plan: Plan) -> int:
        return 0 if plan.quick else len(self.cases) * len(plan.those(("onward",)))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"cases": self.cases, "note": "Onward alone; us of CPU a message; ceiling_per_s: what the busiest thread of which "
                                                 "there is only one could serve"}

    def measure(self, plan: Plan, note: Note) -> None:
        for workers, submitters in self.cases:
            load = Workload(Mail(submitters=submitters, domains=200), own_exchanges=True)
            note.run(f"onward-{workers}-{submitters}", 0, lambda: run(workers, load, int(self.messages * plan.part)))


def run(workers: int, load: Workload, messages: int) -> Figures:
    """CPU time a message by thread."""
    with Folder() as folder, name_server(folder, records_of(load)), receiver(load, folder) as sink, \
            running(Onward, folder, Setting(onward={"workers": {"threads": workers}})) as relay:
        assert isinstance(relay, Onward)
        warm_up(relay, load, sink, messages)
        before = nanoseconds(relay.pid())
        found = send(load, sink, messages, "a")
        time.sleep(SETTLE_S)
        after = nanoseconds(relay.pid())
    each = {name: (after[name] - before.get(name, 0)) / messages / 1000 for name in after}
    single = max((us for name, us in each.items() if name != WORKER), default=0.0)
    return {"workers": workers, "submitters": load.mail.submitters, "per_s": messages / (found["ended_s"] - found["began_s"]),
            **{f"{name}_us": us for name, us in sorted(each.items(), key=lambda item: -item[1]) if us > 0.05},
            "ceiling_per_s": 1e6 / single if single else 0.0}
