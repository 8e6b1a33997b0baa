#!/usr/bin/env python3
"""Lets the disk fail: at the n-th write, sync or change of size of the spool, for every n of a run.

    faults.py [--every N] [--seed N]

A run begins without a spool, takes a fixed set of messages in order (one of each shape) and delivers them. One call on
the spool fails with ENOSPC, EIO or a short write; --every 1 tries every call. In each case

  - the relay goes on, or refuses to start, or stops with a message on standard error that names the spool, and a status
    that has systemd start it again;
  - every recipient of a message that got its 250 is reached, at the latest after a restart on the mended disk, its body
    whole; twice only where the relay stopped in between;
  - mail is taken again once the disk is well.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, field

from common import TOOLS, Checks, Message, build_world, make_message, read_journal, submit_one

from harness import BINARY, Process, wait_until

KINDS = ("ENOSPC", "EIO", "SHORT")
STOPS = (74, 75)  # EX_IOERR: a write failed for good; EX_TEMPFAIL: the spool could not be opened
START_LIMIT_S = 60.0
# What standard error says of each: the system's word, and what is to be done.
# How each is told, and what to do about it. A write that was cut short has no reason of its own: what LMDB calls it depends on where.
REASONS = {"ENOSPC": (("No space left on device",), "make room"), "EIO": (("Input/output error",), "dmesg"),
           "SHORT": (("Input/output error", "No space left on device"), "dmesg")}
STARTING = 4  # calls until the spool is set up: each has words of its own, so each is tried every time
SHAPES = (("small", 1, (1, 1), (300, 300)), ("medium", 1, (2, 2), (9_000, 9_000)), ("large", 1, (1, 1), (150_000, 150_000)),
          ("many", 1, (6, 6), (2_000, 2_000)), ("later", 1, (2, 2), (500, 500)), ("never", 1, (2, 2), (500, 500)))


@dataclass
class Case:
    """One fault, and what came of it."""

    name: str
    messages: list[Message] = field(default_factory=list)
    stopped: int | None = None  # the status, where the relay stopped by itself
    said: str = ""
    calls: int = 0
    problems: list[str] = field(default_factory=list)


class Bench:
    """One world for all cases: each has a spool of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world, self.sink = build_world(retry={"first": "200ms", "max": "500ms"}, drain_timeout="5s")
        self.number = 0

    def new_case(self, name: str) -> Case:
        self.number += 1
        spool = self.world.relay.folder / f"spool-{self.number}"
        self.world.relay.write_config(spool={"path": str(spool)})
        return Case(name)

    def serve(self, **faults: str) -> Process:
        relay = self.world.relay
        env = {"LD_PRELOAD": str(TOOLS / "disk.so"), "TORTURE_SPOOL": relay.config["spool"]["path"], **faults}
        return Process([BINARY, "serve", "-c", relay.config_path], relay.folder, f"onward-{self.number}", env)

    def is_up(self, process: Process) -> bool:
        """Waits until it serves or has ended."""
        return wait_until(lambda: not process.running() or self.world.relay._is_controllable() and "up", "a start or an end",
                          START_LIMIT_S) == "up" and process.running()

    def submit_all(self, case: Case, process: Process, rng: random.Random) -> None:
        """One message of each shape, whatever becomes of them."""
        for number, shape in enumerate(SHAPES):
            if not process.running():
                return
            message = make_message(rng, f"f{self.number}-{len(case.messages)}x{number}", (shape,))
            case.messages.append(message)
            submit_one(self.world.relay.port, message)

    def is_idle(self) -> bool:
        return self.world.relay.json("status")[0]["spool"]["recipients_queued"] == 0

    def drain(self, process: Process) -> None:
        """Until all is delivered, or the relay has ended."""
        def over() -> bool:
            try:
                return not process.running() or self.is_idle()
            except AssertionError:
                return not process.running()
        wait_until(over, "the spool to drain", 150.0, 0.02)

    def end(self, case: Case, process: Process) -> None:
        """SIGTERM, where it has not ended by itself."""
        status = process.popen.poll()
        if status is None:
            process.popen.terminate()
            status = process.wait()
        if status != 0:
            case.stopped = status
            case.said = process.stderr()
            if status not in STOPS or not self.tells(case):
                case.problems.append(f"it ended with status {status}, saying {case.said[-300:]!r}")

    def tells(self, case: Case) -> bool:
        """What failed and why, and, where it had served, what is to be done about it."""
        reasons, advice = REASONS[case.name.split()[0]]
        served = case.stopped == STOPS[0]
        return (self.world.relay.config["spool"]["path"] in case.said and any(why in case.said for why in reasons) and
                (advice in case.said or not served))

    def run(self, case: Case, **faults: str) -> Case:
        """A run with the fault, one without; then the comparison."""
        rng = random.Random(f"{self.seed} {case.name}")
        process = self.serve(**faults)
        if self.is_up(process):
            self.submit_all(case, process, rng)
            self.drain(process)
        self.end(case, process)
        self.recover(case, rng)
        return case

    def recover(self, case: Case, rng: random.Random) -> None:
        """The disk is well: it starts, what was accepted goes out, and new mail is taken."""
        second = self.serve()
        if not self.is_up(second):
            case.problems.append(f"it does not start on the mended disk: {second.stderr()[-200:]!r}")
            return
        fresh = len(case.messages)
        self.submit_all(case, second, rng)
        self.drain(second)
        second.popen.terminate()
        second.wait()
        refused = [m.id for m in case.messages[fresh:] if not m.accepted_s]
        if refused:
            case.problems.append(f"mail is not taken again: {refused}")
        self.sink.write_out()

    def compare(self, cases: list[Case]) -> tuple[int, int]:
        """Adds to the cases' problems; returns how many messages were accepted, and how many recipients doubled."""
        seen = read_journal(self.sink.journal)
        accepted = doubled = 0
        for case in cases:
            for message in case.messages:
                copies = {address: seen.get(address, []) for address in message.expected()}
                whole = message.body_sum()
                if message.accepted_s:
                    accepted += 1
                    case.problems += [f"lost: {address}" for address, came in copies.items() if not came]
                twice = [address for address, came in copies.items() if len(came) > 1]
                doubled += len(twice)
                if twice and case.stopped is None:
                    case.problems.append(f"doubled though it went on: {twice}")
                case.problems += [f"damaged: {address}" for address, came in copies.items()
                                  if address != message.sender and any(tuple(rest) != whole for _, *rest in came)]
        return accepted, doubled


def count_calls(bench: Bench) -> int:
    """The writes and syncs of a run without a fault."""
    case = bench.new_case("none")
    counts = bench.world.folder / "calls"
    bench.run(case, TORTURE_COUNT=str(counts))
    return int(counts.read_text().split()[0])


def nth_failures(bench: Bench, every: int) -> list[Case]:
    calls = count_calls(bench)
    cases = []
    for kind in KINDS:
        for n in sorted({*range(1, STARTING + 1), *range(1 + bench.seed % every, calls + 1, every)}):
            case = bench.new_case(f"{kind} at call {n}")
            cases.append(bench.run(case, TORTURE_FAIL=f"{n},1,{kind}"))
    return cases


def report(checks: Checks, cases: list[Case], accepted: int, doubled: int) -> None:
    stops = [case for case in cases if case.stopped is not None]
    checks.note(f"{len(cases)} failures: {len(cases) - len(stops)} survived, {len(stops)} stopped with a message; "
                f"{accepted} messages accepted, {doubled} recipients reached twice after a stop")
    for case in cases:
        checks.check(case.name, not case.problems, "; ".join(case.problems[:3]))


def run(every: int, seed: int) -> int:
    checks = Checks(f"failing disk: every {every}. write and sync, seed {seed}")
    bench = Bench(seed)
    try:
        cases = nth_failures(bench, every)
        report(checks, cases, *bench.compare(cases))
    finally:
        bench.world.cleanup(None)
    return checks.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    return run(arguments.every, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
