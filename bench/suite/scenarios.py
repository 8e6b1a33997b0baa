"""All scenarios, in the order in which they are measured."""

from __future__ import annotations

from dataclasses import replace

from .faults import Faults
from .hung import Origin, Recovery, Shared, Thirty
from .load import Mail
from .measure import Workload
from .parked import Parked
from .priority import Priority
from .queue import Backlog
from .scenario import Plan, Scenario, Throughput
from .soak import Soak
from .threads import Threads

TEN_KB = Mail()
SMALL = Mail(size=2048)

# Round trips, not the relays, set the pace there: all get the same mail, as much as the slowest carries in 15 s.
SAME_FOR_ALL = {"postfix": 0.25, "exim": 0.25, "haraka": 0.25}

ALL: tuple[Scenario, ...] = (
    Throughput("one", "10 KB to one destination, 20 submitters; smtp-source and smtp-sink", 30000,
               Workload(third_party=True), rounds=5, quick_rounds=2, floor=True, counted=True),
    Throughput("reconnecting", "The same, and the submitters make a connection for each message", 15000,
               Workload(replace(TEN_KB, reconnects=True), third_party=True), rounds=2, floor=True),
    Throughput("own", "10 KB to one destination by our load generator and sink, which verify and time each message", 30000,
               Workload(), floor=True, quick_rounds=1, quick_part=0.3, quick_who=("onward", "postfix")),
    Throughput("to-200", "10 KB to 200 destinations", 30000,
               Workload(replace(TEN_KB, domains=200), own_exchanges=True)),
    Throughput("source-200", "10 KB to 200 domains at one destination, smtp-source and smtp-sink", 20000,
               Workload(replace(TEN_KB, domains=200), third_party=True)),
    Throughput("to-10000", "10 KB to 10,000 destinations in turns", 40000,
               Workload(replace(TEN_KB, domains=10000), own_exchanges=True)),
    Throughput("each-10000", "10 KB to 10,000 destinations in turns, a connection for every message", 20000,
               Workload(replace(TEN_KB, domains=10000), own_exchanges=True, connection_each=True), quick_rounds=1,
               quick_part=0.5, who=("onward",)),
    Throughput("each-1", "10 KB to one destination, a connection for every message: what the one before is to be compared with", 20000,
               Workload(connection_each=True), quick_rounds=1, quick_part=0.5, who=("onward",)),
    Throughput("size-2k", "2 KB to one destination", 40000, Workload(SMALL)),
    Throughput("size-100k", "100 KB to one destination", 6000, Workload(replace(TEN_KB, size=100_000)),
               pace={"postfix": 0.25, "exim": 0.05, "haraka": 0.15}),
    Throughput("size-5m", "5 MB to one destination", 150, Workload(replace(TEN_KB, size=5_000_000)), rounds=2,
               pace={"postfix": 0.5, "exim": 0.5, "haraka": 0.3}),
    Throughput("to-20-each", "10 KB to 20 recipients a message", 15000, Workload(replace(TEN_KB, recipients=20)),
               rounds=2),
    Throughput("to-100-each", "10 KB to 100 recipients a message", 6000, Workload(replace(TEN_KB, recipients=100)),
               rounds=2),
    Throughput("from-1", "10 KB from one submitter", 6000, Workload(replace(TEN_KB, submitters=1)), rounds=2),
    Throughput("from-64", "10 KB from 64 submitters", 30000, Workload(replace(TEN_KB, submitters=64)), rounds=2,
               quick_rounds=1,
               counted=True, who=("onward",)),
    Throughput("from-200", "10 KB from 200 submitters", 30000, Workload(replace(TEN_KB, submitters=200)), rounds=2),
    Throughput("tls", "10 KB to one destination, TLS on delivery", 20000, Workload(tls=True), rounds=2),
    Throughput("far", "10 KB to one destination, 100 ms of round trip", 3000, Workload(one_way_ms=50), rounds=2,
               quick_rounds=1,
               quick_who=("onward", "postfix"), pace=SAME_FOR_ALL),
    Origin(), Faults(), Thirty(), Shared(), Recovery(), Backlog(), Priority(), Parked(), Threads(), Soak(),
)
BY_NAME = {scenario.name: scenario for scenario in ALL}

__all__ = ["ALL", "BY_NAME", "Plan"]
