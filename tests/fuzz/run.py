#!/usr/bin/env python3
"""Runs fuzzers, each with its bounds, its dictionary and its corpus.

  tests/fuzz/run.py one TARGET [libFuzzer's arguments]   once, from the kept corpus, as make check does
  tests/fuzz/run.py for SECONDS [TARGET...]              as long as that, a slice at a time, whichever is furthest behind
  tests/fuzz/run.py account                              how far each has come
  tests/fuzz/run.py keep [TARGET...]                     what was found, made small, becomes the kept corpus

Slices gather inputs in build/fuzz/work and are written down in build/fuzz/executions.tsv: only those that ended well count.
The first that fails ends the run; its input lies in build/fuzz/artifacts.
"""

import collections
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
BUILD = TREE / "build" / "fuzz"
ACCOUNT = BUILD / "executions.tsv"
SLICE_S = 60
LEAST = 5_000_000
GOAL = 100_000_000

# Three slices of four are quick ones: short inputs, and what they reach is told by branches alone, not by how often each was taken, which
# with many inputs found costs more than running them.
QUICK_OF_SLICES = 4
QUICK_LEN = 256
QUICK = ["-use_counters=0", "-entropic=0"]

# Each target with the longest input that still means something to it: what is longer only takes time.
TARGETS = {
    "address": 700,
    "body": 2000,
    "client": 4096,
    "command": 1200,
    "config": 2000,
    "content": 4200,
    "control": 2000,
    "domain": 300,
    "files": 1500,
    "inject": 4096,
    "log": 1400,
    "mail_text": 3000,
    "mime": 3000,
    "packet": 1024,
    "proxy": 2100,
    "record": 2000,
    "reply": 2500,
    "screen": 3000,
    "server": 2600,
    "stuff": 600,
}


def arguments(target):
    """Its bounds, and where it leaves what it finds; a leak is looked for over the whole corpus, not after each input."""
    artifacts = BUILD / "artifacts"
    artifacts.mkdir(exist_ok=True)
    given = [str(BUILD / f"fuzz_{target}"), f"-max_len={TARGETS[target]}", "-timeout=30", "-rss_limit_mb=2048",
             f"-artifact_prefix={artifacts}/{target}-"]
    words = HERE / "dictionaries" / f"{target}.dict"
    return given + ([f"-dict={words}"] if words.exists() else [])


def environment(leaks):
    """A small quarantine stays in the cache, and nobody reads where memory of so many inputs was allocated."""
    quarantine = "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    options = f"detect_leaks={int(leaks)}:{quarantine}:malloc_context_size={8 if leaks else 0}"
    return dict(os.environ, ASAN_OPTIONS=options, UBSAN_OPTIONS="print_stacktrace=1")


def kept(target):
    return HERE / "corpus" / f"fuzz_{target}"


def work(target):
    path = BUILD / "work" / target
    path.mkdir(parents=True, exist_ok=True)
    return path


def one(target, more):
    with tempfile.TemporaryDirectory() as fresh:
        command = arguments(target) + more + [fresh, str(kept(target))]
        return subprocess.run(command, env=environment(leaks=True), check=False).returncode


def revision():
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=TREE, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


Sum = collections.namedtuple("Sum", "executions cpu_s")


def account():
    sums = {target: Sum(0, 0.0) for target in TARGETS}
    for line in ACCOUNT.read_text().splitlines() if ACCOUNT.exists() else []:
        target, _, executions, _, cpu_s = line.split("\t")
        if target in sums:
            sums[target] = Sum(sums[target].executions + int(executions), sums[target].cpu_s + float(cpu_s))
    return sums


def next_target(chosen):
    """All of them come to LEAST first, then to GOAL, those that have least work left before the others; then the slowest."""
    sums = account()

    def urgency(target):
        done, cpu_s = sums[target]
        speed = done / cpu_s if cpu_s > 0 else 1e9
        for rank, bound in enumerate((LEAST, GOAL)):
            if done < bound:
                return rank, (bound - done) / speed
        return 2, done

    return min(chosen, key=urgency)


def run_slice(target, seconds, quick):
    """True if it ended well; then it counts."""
    log = BUILD / f"fuzz_{target}.log"
    command = arguments(target) + [f"-max_total_time={seconds}", "-print_final_stats=1", "-detect_leaks=0", "-reload=0",
                                   str(work(target)), str(kept(target))]
    if quick:
        command += QUICK + [f"-max_len={min(QUICK_LEN, TARGETS[target])}"]
    began = time.monotonic()
    with log.open("w") as out:
        child = subprocess.Popen(command, env=environment(leaks=False), stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    found = re.search(r"^stat::number_of_executed_units:\s*(\d+)", log.read_text(errors="replace"), re.M)
    if child.returncode != 0 or not found:
        print(f"{target}: FAILED, see {log}")
        return False
    executions, cpu_s = int(found[1]), usage.ru_utime + usage.ru_stime
    with ACCOUNT.open("a") as out:
        out.write(f"{target}\t{revision()}\t{executions}\t{wall_s:.1f}\t{cpu_s:.1f}\n")
    print(f"{target}: {executions:,} executions, {executions / cpu_s:,.0f} a CPU second", flush=True)
    return True


def run_for(seconds, chosen):
    until = time.monotonic() + seconds
    for number in itertools.count():
        left = until - time.monotonic()
        if left <= 1:
            break
        if not run_slice(next_target(chosen), min(SLICE_S, round(left)), quick=number % QUICK_OF_SLICES != 0):
            return 1
    return 0


def show_account():
    for target, (executions, cpu_s) in account().items():
        print(f"{target:12} {executions:>14,} executions {executions / cpu_s if cpu_s else 0:>10,.0f} a CPU second")
    return 0


def keep(target):
    """Few inputs that reach all branches that are known to be reached. Those with a name of their own stay."""
    small = BUILD / "merged" / target
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    command = arguments(target) + ["-set_cover_merge=1", "-use_counters=0", str(small), str(kept(target)), str(work(target))]
    subprocess.run(command, env=environment(leaks=False), check=True, capture_output=True)
    for path in kept(target).iterdir():
        if re.fullmatch(r"[0-9a-f]{40}", path.name):
            path.unlink()
    named = {path.read_bytes() for path in kept(target).iterdir()}
    for path in small.iterdir():
        if path.read_bytes() not in named:
            shutil.copy(path, kept(target) / path.name)


def main(argv):
    names = [name.removeprefix("fuzz_") for name in argv[2:]]
    if len(argv) > 2 and argv[1] == "one" and names[0] in TARGETS:
        return one(names[0], argv[3:])
    if argv[1:] == ["account"]:
        return show_account()
    if len(argv) > 1 and argv[1] == "keep" and all(name in TARGETS for name in names):
        for target in names or TARGETS:
            keep(target)
        return 0
    if len(argv) > 2 and argv[1] == "for" and argv[2].isdigit() and all(name in TARGETS for name in names[1:]):
        return run_for(int(argv[2]), names[1:] or list(TARGETS))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
