#!/usr/bin/env python3
"""Cuts the power at every point of a run, on paper: what was written and synced is recorded, the states a real disk may
then hold are rebuilt, and each is opened with the relay's own store.

    powercut.py [--runs N] [--states N] [--seed N]

Each run begins without a spool, takes and delivers mail under load, is killed in the middle of a write or sync, starts
anew on what is there, goes on, and stops. disk.c records all of it, states.c draws and judges the states: every message
with a 250 is there, whole, and what was synced stays. Then the same for builds that are wrong on purpose, each of which
must be caught.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from common import TOOLS, Checks, build_world, start_submitter, stop_submitter

from harness import BINARY, Process, World, wait_until

KILLED_AT = (60, 260)  # writes and syncs
SECOND_PART_S = (0.4, 1.0)
SESSIONS = 6
STATES_LIMIT_S = 1800
BROKEN_STATES = 50  # and those of the creation

# What a wrong build leaves out, and what the judge must say of it.
BROKEN = {"FDATASYNC": "data pages are not synced before the root", "DSYNC": "the root is not synced before the 250",
          "DIRSYNC": "the spool's names are not synced", "NOSYNC": "LMDB's MDB_NOSYNC",
          "NOMETASYNC": "LMDB's MDB_NOMETASYNC"}


@dataclass
class Verdict:
    """What states.c counted."""

    states: int
    messages: int
    accepted: int
    wrong: int
    text: str


def preload(world: World, **more: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(TOOLS / "disk.so"), "TORTURE_SPOOL": world.relay.config["spool"]["path"],
            "TORTURE_TRACE": str(world.folder / "trace"), **more}


def serve(world: World, **more: str) -> Process:
    return Process([BINARY, "serve", "-c", world.relay.config_path], world.relay.folder, "onward", preload(world, **more))


def take_trace(rng: random.Random, seed: int, broken: str | None) -> World:
    """Runs the relay as described above; the trace and the closed spool stay in the world's folder."""
    world, _ = build_world(hung="127.0.0.11")
    more = {"TORTURE_BREAK": broken} if broken else {}
    submitter = start_submitter(world, seed, SESSIONS)
    try:
        first = serve(world, **more, TORTURE_FAIL=f"{rng.randint(*KILLED_AT)},1,KILL")
        wait_until(lambda: not first.running(), "the relay to be killed at its write")
        second = serve(world, **more)
        wait_until(lambda: world.relay._is_controllable(), "the relay to come back")
        time.sleep(rng.uniform(*SECOND_PART_S))
    finally:
        stop_submitter(submitter)
    second.require_running()
    second.popen.terminate()
    second.wait()
    return world


def judge(world: World, seed: int, states: int) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="onward-states-", dir="/dev/shm") as folder:
        done = subprocess.run([TOOLS / "states", world.folder / "trace", folder, str(seed), str(states),
                               world.relay.config["spool"]["path"]], capture_output=True, text=True,
                              timeout=STATES_LIMIT_S, check=False)
    counts = re.search(r"(\d+) states after \d+ commits of (\d+) messages, (\d+) with a 250.* wrong: (\d+)", done.stdout)
    if counts is None:
        raise AssertionError(f"states: status {done.returncode}: {done.stdout}{done.stderr}")
    return Verdict(*map(int, counts.groups()), done.stdout.rstrip())


def one_run(seed: int, states: int, broken: str | None) -> Verdict:
    world = take_trace(random.Random(seed), seed, broken)
    try:
        return judge(world, seed, states)
    finally:
        world.cleanup(None)


def run(runs: int, states: int, seed: int) -> int:
    checks = Checks(f"power cut: {runs} runs, seed {seed}")
    total = 0
    for number in range(runs):
        verdict = one_run(seed + number, states, None)
        total += verdict.states
        checks.note(verdict.text.strip())
        checks.check(f"seed {seed + number}: what had a 250 is there, whole, in each state",
                     verdict.wrong == 0 and verdict.accepted > 0)
    for broken, what in BROKEN.items():
        verdict = one_run(seed, BROKEN_STATES, broken)
        checks.note(f"broken on purpose, {what}: {verdict.wrong} of {verdict.states} states are wrong")
        checks.check(f"a build is caught in which {what}", verdict.wrong > 0)
    checks.note(f"{total} states of the relay as it is")
    return checks.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--states", type=int, default=1500, help="about so many a run")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    return run(arguments.runs, arguments.states, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
