#!/usr/bin/env python3
"""Kills the relay again and again under load; nothing that got its 250 may be lost.

    crash.py [--kills N] [--seed N]

Sessions submit messages of all shapes without a pause: small and large, for one recipient and many, for recipients that
are deferred once and for some that bounce. The relay is killed (SIGKILL) at random moments, while it starts too, and is
started again on the same spool. At the end the spool drains, and the sink's journal is compared with what got its 250:

  - lost: a recipient (or the bounce about it) of an accepted message that never reached the sink. Must be 0.
  - duplicates: a recipient reached again. The sink must have taken the earlier copy within IN_FLIGHT_S of a kill: the
    outcome was then on its way to the disk, or to the relay. The report tells the longest such time.
  - damaged: a body that is not, byte for byte, what was submitted. Must be 0.
  - fragments: recipients of messages whose last chunk was never sent. Must be 0.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import sys
import time
from dataclasses import dataclass, field

from common import Checks, Message, build_world, read_journal, start_submitter, stop_submitter

from harness import BINARY, Process, World, wait_until

SESSIONS = 24
IN_FLIGHT_S = 5.0  # an outcome waits 5 ms for company, then for a sync, of a disk that others keep busy
IN_START_S = (0.0, 0.06)  # moments from the start of the process on: most are up by then
UNDER_LOAD_S = (0.0, 0.4)  # from when it is up
SHARE_IN_START = 0.15
DRAIN_LIMIT_S = 300.0


@dataclass
class Kills:
    """When the relay was dead, each time; and what was found amiss with it before that."""

    at: list[float] = field(default_factory=list)
    ended_early: list[str] = field(default_factory=list)


def kill_once(world: World, rng: random.Random, kills: Kills) -> None:
    in_start = rng.random() < SHARE_IN_START
    moment = rng.uniform(*(IN_START_S if in_start else UNDER_LOAD_S))
    process = Process([BINARY, "serve", "-c", world.relay.config_path], world.relay.folder, "onward")
    if not in_start:
        wait_until(lambda: not process.running() or world.relay._is_controllable(), "a start or an end")
    time.sleep(moment)
    if not process.running():
        kills.ended_early.append(f"status {process.popen.returncode}: {process.stderr()[-300:]}")
    process.kill()
    kills.at.append(time.monotonic())


def queued(world: World) -> int:
    return world.relay.json("status")[0]["spool"]["recipients_queued"]


def read_submitted(path: pathlib.Path) -> list[Message]:
    messages = []
    for line in path.read_text(encoding="ascii").splitlines():
        accepted, shape, size, message_id, *recipients = line.split(" ")
        messages.append(Message(message_id, recipients, int(size), shape == "given-up", float(accepted)))
    return messages


def from_a_kill(copy_s: float, next_s: float, kills: list[float]) -> float:
    """How far from a kill this copy was taken, of the kills before the next copy; infinite where there is none. It may
    have been behind the kill: the sink then read late what the relay had sent."""
    return min((abs(kill - copy_s) for kill in kills if kill <= next_s), default=float("inf"))


def compare(checks: Checks, messages: list[Message], seen: dict[str, list[tuple[float, int, int]]],
            kills: list[float]) -> None:
    lost, damaged, fragments, unaccepted = [], [], [], 0
    in_flight: list[float] = []
    unexplained: list[str] = []
    by_kill: collections.Counter[float] = collections.Counter()
    for message in messages:
        copies = {address: seen.get(address, []) for address in message.expected()}
        if message.given_up:
            fragments += [address for address, came in copies.items() if came]
            continue
        if message.accepted_s:
            lost += [address for address, came in copies.items() if not came]
        else:
            unaccepted += any(copies.values())
        whole = message.body_sum() if any(copies.values()) else None
        for address, came in copies.items():
            damaged += [address for _, size, crc in came if address != message.sender and (size, crc) != whole]
            for (copy_s, *_), (next_s, *_) in zip(came, came[1:]):
                in_flight.append(from_a_kill(copy_s, next_s, kills))
                if in_flight[-1] > IN_FLIGHT_S:
                    unexplained.append(f"{address} at {copy_s:.6f} and {next_s:.6f}")
                by_kill[min(kills, key=lambda kill, at=copy_s: abs(kill - at))] += 1
    accepted = [m for m in messages if m.accepted_s]
    known = {address for message in messages for address in message.expected()}
    strange = [address for address in seen if address not in known]
    checks.note(f"{len(messages)} messages begun, {len(accepted)} accepted for {sum(len(m.recipients) for m in accepted)} "
                f"recipients; {sum(map(len, seen.values()))} came; {unaccepted} came whose 250 the kill cut off")
    checks.note(f"lost {len(lost)}, damaged {len(damaged)}, fragments {len(fragments)}, duplicates {len(in_flight)}"
                + (f" (at most {max(by_kill.values())} at a kill; taken at most {max(in_flight) * 1000:.0f} ms from "
                   "it)" if in_flight else ""))
    checks.check("nothing is lost", bool(accepted) and not lost, str(lost[:5]))
    checks.check("all is whole", not damaged, str(damaged[:5]))
    checks.check("nothing is sent of what was given up", not fragments, str(fragments[:5]))
    checks.check("nothing comes that nobody sent", not strange, str(strange[:5]))
    checks.check("a duplicate was in flight at a kill", not unexplained,
                 f"{len(unexplained)} were not: {unexplained[:5]}; kills at {[round(k, 6) for k in kills[-20:]]}")


def run(kill_count: int, seed: int) -> int:
    checks = Checks(f"crash: {kill_count} kills under load, seed {seed}")
    rng = random.Random(seed)
    world, sink = build_world()
    kills = Kills()
    try:
        submitter = start_submitter(world, seed, SESSIONS)
        try:
            for _ in range(kill_count):
                kill_once(world, rng, kills)
        finally:
            stop_submitter(submitter)
        began = time.monotonic()
        world.relay.start()
        wait_until(lambda: queued(world) == 0, "the spool to drain", DRAIN_LIMIT_S, 0.2)
        checks.note(f"{len(kills.at)} kills; the spool was empty {time.monotonic() - began:.1f} s after the last start")
        world.relay.terminate()
        sink.write_out()
        compare(checks, read_submitted(world.folder / "submitted"), read_journal(sink.journal), kills.at)
        checks.check("the relay never ended by itself", not kills.ended_early, str(kills.ended_early[:3]))
    finally:
        world.cleanup(None)
    return checks.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    return run(arguments.kills, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
