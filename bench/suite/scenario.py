"""What a scenario is, and the plainest kind: each relay under one workload, in turns."""

from __future__ import annotations

import abc
from dataclasses import asdict, dataclass, field
from typing import Any, Callable

from .measure import Figures, Workload, count_relay, run_floor, run_relay
from .progress import Progress
from .relays import Relay
from .results import Results

FLOOR = "floor"  # in the results, beside the relays' names
COUNTING_PART = 0.5  # a counting round needs no long time
MESSAGES_LEAST = 40


@dataclass(frozen=True)
class Plan:
    """Who takes part, and how thoroughly."""

    relays: list[type[Relay]]
    quick: bool
    rounds: int | None = None
    part: float = 1.0  # of all messages: less, to try the bench itself

    def those(self, names: tuple[str, ...]) -> list[type[Relay]]:
        return [relay for relay in self.relays if relay.name in names]


class Scenario(abc.ABC):
    """Something that is measured."""

    name: str
    title: str

    @abc.abstractmethod
    def runs(self, plan: Plan) -> int:
        """How many runs that takes; 0 where the plan leaves it out."""

    @abc.abstractmethod
    def settings(self, plan: Plan) -> dict[str, Any]:
        """What a reader of the results must know."""

    @abc.abstractmethod
    def measure(self, plan: Plan, note: "Note") -> None:
        """Does the runs."""

    def run(self, plan: Plan, results: Results, progress: Progress) -> None:
        if self.runs(plan) > 0:
            results.describe(self.name, self.title, self.settings(plan))
            self.measure(plan, Note(self.name, results, progress))


@dataclass
class Note:
    """Does single runs of a scenario, and notes what came of each. One that fails is noted as failed; the others go on."""

    scenario: str
    results: Results
    progress: Progress

    def run(self, relay: str, number: int, measure: Callable[[], Figures]) -> Figures:
        self.progress.start(f"{self.scenario}, {relay}, round {number + 1}")
        try:
            figures = measure()
        except Exception as error:  # whatever it was, it costs this run and not the hour
            figures = {"failed": f"{type(error).__name__}: {error}"}
        self.results.add(self.scenario, relay, number, figures)
        self.progress.end(figures)
        return figures


@dataclass
class Throughput(Scenario):
    """All relays under one workload, one at a time, over some rounds."""

    name: str
    title: str
    messages: int  # Onward's; the others get their share of it, so that runs last about as long
    load: Workload = field(default_factory=Workload)
    rounds: int = 3
    quick_rounds: int = 0  # 0 = not in a quick run
    quick_part: float = 0.4  # of the messages
    floor: bool = False
    counted: bool = False  # one more round for syncs, context switches and system calls
    who: tuple[str, ...] = ("onward", "postfix", "exim", "haraka")
    quick_who: tuple[str, ...] | None = None  # of them, in a quick run
    pace: dict[str, float] = field(default_factory=dict)  # instead of the relays' own

    def _rounds(self, plan: Plan) -> int:
        usual = self.quick_rounds if plan.quick else self.rounds
        return min(usual, 1) * (plan.rounds or usual)

    def _who(self, plan: Plan) -> list[type[Relay]]:
        return plan.those(self.quick_who if plan.quick and self.quick_who else self.who)

    def _count(self, plan: Plan, relay: type[Relay]) -> int:
        share = self.pace.get(relay.name, relay.pace) * (self.quick_part if plan.quick else 1) * plan.part
        return max(MESSAGES_LEAST, int(self.messages * share))

    def runs(self, plan: Plan) -> int:
        rounds, relays = self._rounds(plan), len(self._who(plan))
        return rounds * (relays + self.floor) + min(rounds, 1) * self.counted * relays

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {"rounds": self._rounds(plan), "workload": asdict(self.load),
                "messages": {relay.name: self._count(plan, relay) for relay in self._who(plan)}}

    def measure(self, plan: Plan, note: Note) -> None:
        for number in range(self._rounds(plan)):
            if self.floor:
                note.run(FLOOR, number,
                         lambda: run_floor(self.load, int(self.messages * plan.part * (0.5 if plan.quick else 1))))
            for relay in self._who(plan):
                note.run(relay.name, number, lambda: run_relay(relay, self.load, self._count(plan, relay)))
        for relay in self._who(plan) if self.counted else []:
            count = int(self._count(plan, relay) * COUNTING_PART)
            note.run(relay.name, self._rounds(plan), lambda: count_relay(relay, self.load, max(MESSAGES_LEAST, count)))
