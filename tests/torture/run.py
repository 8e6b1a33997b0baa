#!/usr/bin/env python3
"""Runs the tortures: short (about a minute, in `make check`) or full (`make torture`).

    run.py short|full [--seed N]

Each prints its counts; the last line is "N passed, N failed" of all.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
FIXED_SEED = 1  # `make check` does the same each time; `make torture` something new

PLANS = {"short": (("crash.py", "--kills", "40"), ("powercut.py", "--runs", "1", "--states", "300"),
                   ("faults.py", "--every", "15"), ("fulldisk.py",)),
         "full": (("crash.py", "--kills", "1000"), ("powercut.py", "--runs", "10", "--states", "1500"),
                  ("faults.py", "--every", "1"), ("fulldisk.py",))}


def run_one(program: str, *arguments: str) -> tuple[int, int]:
    """Passes its output on as it comes; returns its counts. One that ends without them has failed."""
    counts = None
    child = subprocess.Popen([sys.executable, HERE / program, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", flush=True)
        match = re.fullmatch(r"(\d+) passed, (\d+) failed\n", line)
        if match:
            counts = int(match[1]), int(match[2])
    status = child.wait()
    if counts is None or (status != 0 and counts[1] == 0):
        print(f"   FAILED: {program} ended with status {status}")
        return (0, 1) if counts is None else (counts[0], counts[1] + 1)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=sorted(PLANS))
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    seed = arguments.seed
    if seed is None:
        seed = FIXED_SEED if arguments.plan == "short" else random.randrange(1 << 32)
    counts = [run_one(*plan, "--seed", str(seed)) for plan in PLANS[arguments.plan]]
    passed, failed = map(sum, zip(*counts))
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
