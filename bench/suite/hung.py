"""What exchanges that accept and then say nothing cost: the message before them, and all the others."""

from __future__ import annotations

import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .accounting import Watch
from .load import Load, Mail
from .measure import Figures, address, name_server, running
from .relays import Onward, Relay, Setting
from .scenario import Note, Plan, Scenario
from .sinks import Sink
from .surroundings import Folder
from harness import wait_until

HUNG, SECOND = "127.2.0.1", "127.3.0.1"
HUNG_NETWORK = "127.20.0.0/16"
FIRST_PORT = 2601  # of relays that run side by side
AFTER_S = 1.0  # a second copy has this long to show up


@dataclass
class Origin(Scenario):
    """The case all this began with. Each relay gets one message; they wait at the same time, for nothing here takes CPU."""

    name: str = "origin"
    title: str = "The origin's case: the first exchange accepts and never greets, the second is well; seconds until the message arrives"
    limit_s: float = 620.0
    quick_limit_s: float = 12.0

    def runs(self, plan: Plan) -> int:
        return len(self._who(plan))

    def _who(self, plan: Plan) -> list[type[Relay]]:
        return plan.those(("onward",)) if plan.quick else plan.relays

    def settings(self, plan: Plan) -> dict[str, Any]:
        note = "a quick run has no time for the others; bench/peers/faults.json has what they took once" if plan.quick else ""
        return {"limit_s": self.quick_limit_s if plan.quick else self.limit_s, "note": note}

    def measure(self, plan: Plan, note: Note) -> None:
        limit = self.quick_limit_s if plan.quick else self.limit_s
        who = self._who(plan)
        records = [f"first A {HUNG}", f"second A {SECOND}", "d0 MX 10 first", "d0 MX 20 second", "postbox A 127.0.0.1"]
        with Folder() as folder, name_server(folder, records), ThreadPoolExecutor(len(who)) as pool:
            sink = Sink(hung=[f"{HUNG}/32"])
            try:
                waits = [pool.submit(one_message, relay, folder, number, sink, limit)
                         for number, relay in enumerate(who)]
                for relay, wait in zip(who, waits):
                    note.run(relay.name, 0, wait.result)
            finally:
                sink.stop()


def one_message(kind: type[Relay], folder: pathlib.Path, number: int, sink: Sink, limit_s: float) -> Figures:
    """Seconds from the beginning of its submission to its arrival at the second exchange."""
    port, group = FIRST_PORT + number, chr(ord("a") + number)
    with running(kind, folder, Setting(port=port)) as relay:
        sink.goal(group, 1)
        began = Load(Mail(submitters=1), 1, group, relay.listens).finish(30)["began_s"]
        return {"seconds": sink.wait_goal(group, limit_s) - began}


@dataclass
class Thirty(Scenario):
    """Many exchanges with a domain each, of which 30 % hang, and mail for all: how fast are the others served?"""

    name: str = "thirty"
    title: str = "30 % of all exchanges hung: messages/s to the 70 % that are well, beside rounds in which none hangs"
    exchanges: int = 1000
    rounds: int = 3
    messages: int = 60000
    limit_s: float = 60.0
    peer_exchanges: int = 100  # Postfix would need hours for a thousand

    def runs(self, plan: Plan) -> int:
        return 2 * self._rounds(plan) * len(self._who(plan))

    def _rounds(self, plan: Plan) -> int:
        return 1 if plan.quick else plan.rounds or self.rounds

    def _who(self, plan: Plan) -> list[type[Relay]]:
        return plan.those(("onward",) if plan.quick else ("onward", "postfix"))

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"exchanges": {"onward": self.exchanges, "postfix": self.peer_exchanges}, "limit_s": self.limit_s,
                "note": "what had arrived by the limit counts; Postfix has fewer exchanges and messages, in its favour. "
                        "Exim and Haraka do not take part: their deliveries know nothing of each other"}

    def measure(self, plan: Plan, note: Note) -> None:
        for number in range(self._rounds(plan)):
            for relay in self._who(plan):
                for hung in (False, True):
                    note.run(f"{relay.name}{'-hung' if hung else ''}", number, lambda: self._once(relay, plan, hung))

    def _once(self, kind: type[Relay], plan: Plan, hung: bool) -> Figures:
        exchanges = self.exchanges if kind is Onward else self.peer_exchanges
        messages = int(self.messages * kind.pace * plan.part * (0.3 if plan.quick else 1))
        ill = exchanges * 3 // 10
        wells = Mail(size=2048, domains=exchanges - ill, label="w", submitters=28)
        ills = Mail(size=2048, domains=ill, label="h", submitters=12)
        records = ["postbox A 127.0.0.1"]
        for mail, network in ((wells, 10), (ills, 20)):
            for number in range(mail.domains):
                records += [f"{mail.label}{number} MX 10 mx{mail.label}{number}",
                            f"mx{mail.label}{number} A {address(network, number)}"]
        with Folder() as folder, name_server(folder, records):
            sink = Sink(hung=[HUNG_NETWORK] if hung else [], well=[] if hung else [HUNG_NETWORK])
            try:
                with running(kind, folder, Setting()):
                    return self._mail(sink, wells, ills, messages)
            finally:
                sink.stop()

    def _mail(self, sink: Sink, wells: Mail, ills: Mail, messages: int) -> Figures:
        """Both kinds at once, seven to three."""
        for_wells, for_ills = messages * 7 // 10, messages * 3 // 10
        sink.goal("w", for_wells)
        loads = [Load(wells, for_wells, "w"), Load(ills, for_ills, "h")]
        found = [load.finish(self.limit_s) for load in loads]
        began = min(one["began_s"] for one in found)
        wait_until(lambda: sink.group("w")["goal_s"] or time.monotonic() > began + self.limit_s, "the limit",
                   self.limit_s + 5, 0.05)
        time.sleep(AFTER_S)
        group = sink.group("w")
        took = group["goal_s"] - began if group["goal_s"] else self.limit_s
        return {"per_s": group["distinct"] / took, "seconds": took, "arrived": group["distinct"], "of": for_wells,
                "duplicates": group["duplicates"] + sink.group("h")["duplicates"],
                "connections_to_hung": sink.prefix(HUNG_NETWORK)["hung_connections"]}


@dataclass
class Shared(Scenario):
    """One hung exchange that is the first of 10,000 domains: found out once, not 10,000 times."""

    name: str = "shared"
    title: str = "10,000 domains with the same first exchange, which hangs: seconds until a message for each has arrived"
    domains: int = 10000
    limit_s: float = 120.0

    def runs(self, plan: Plan) -> int:
        return 0 if plan.quick or not plan.those(("onward",)) else 2

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"domains": self.domains,
                "note": "Onward alone: the others take 30 to 300 s for each message that meets the hung one"}

    def measure(self, plan: Plan, note: Note) -> None:
        for hung in (False, True):
            note.run(f"onward{'-hung' if hung else ''}", 0, lambda: self._once(hung))

    def _once(self, hung: bool) -> Figures:
        records = [f"first A {HUNG}", f"second A {SECOND}", "postbox A 127.0.0.1"]
        records += [f"d{number} MX {rank} {name}" for number in range(self.domains)
                    for rank, name in ((10, "first"), (20, "second"))]
        with Folder() as folder, name_server(folder, records):
            sink = Sink(hung=[f"{HUNG}/32"] if hung else [], well=[] if hung else [f"{HUNG}/32"])
            try:
                with running(Onward, folder, Setting()) as relay, Watch(relay.group) as memory:
                    sink.goal("a", self.domains)
                    began = Load(Mail(size=2048, domains=self.domains), self.domains).finish(self.limit_s)["began_s"]
                    took = sink.wait_goal("a", self.limit_s) - began
                    time.sleep(AFTER_S)
                    return {"seconds": took, "duplicates": sink.group("a")["duplicates"],
                            "peak_mb": memory.peak_bytes / 1e6,
                            "connections_to_first": sink.prefix(f"{HUNG}/32")["connections"]}
            finally:
                sink.stop()


@dataclass
class Recovery(Scenario):
    """The only exchange of a domain hangs and mail waits for it; then it is well again."""

    name: str = "recovery"
    title: str = "An exchange that hung is well again: seconds until its mail arrives"
    messages: int = 100
    limit_s: float = 300.0

    def runs(self, plan: Plan) -> int:
        return 0 if plan.quick or not plan.those(("onward",)) else 1

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"messages": self.messages,
                "note": "Onward alone; it probes 60 s after the demotion, less a tenth at most"}

    def measure(self, plan: Plan, note: Note) -> None:
        note.run("onward", 0, self._once)

    def _once(self) -> Figures:
        with Folder() as folder, name_server(folder, [f"mx A {HUNG}", "d0 MX 10 mx", "postbox A 127.0.0.1"]):
            sink = Sink(hung=[f"{HUNG}/32"])
            try:
                with running(Onward, folder, Setting()) as relay:
                    assert isinstance(relay, Onward)
                    sink.goal("a", self.messages)
                    Load(Mail(), self.messages).finish(self.limit_s)
                    wait_until(lambda: is_demoted(relay), "the hung exchange to be demoted", 60, pause=0.2)
                    healed = sink.heal(f"{HUNG}/32")
                    ended = sink.wait_goal("a", self.limit_s)
                    group = sink.group("a")
                    return {"first_s": group["first_s"] - healed, "seconds": ended - healed,
                            "duplicates": group["duplicates"]}
            finally:
                sink.stop()


def is_demoted(relay: Onward) -> bool:
    return any(host["address"] == HUNG and host["state"] == "demoted" for host in relay.ask("health", "list"))
