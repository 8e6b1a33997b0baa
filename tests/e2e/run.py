#!/usr/bin/env python3
"""Runs the end-to-end tests: all files, or those named.

    tests/e2e/run.py [-v] [test_delivery | test_limits.Proxy | test_dns.Shapes.test_equals_are_shuffled ...]

Files run two at a time in processes of their own, each with its own ports and folders; those that measure time or need
both processors run alone, behind the others. Every test has a hard limit of its own, every file one above it. Nothing
is skipped: a test that could not run has failed, a missing tool is told with its package. Prints a line per file, what
failed, and at last "N passed, N failed".

One or two tests that fail are run once more, alone: on a crowded machine the harness's own servers come late too. What
then passes counts as passed and is told by name as unsteady; its first failure stays in the print. More than two, or a
failure that only the relay can be at fault for (a sanitizer's report, a crash, a broken protocol), is final.

ONWARD_BINARY names the relay to test (default: ./onward), ONWARD_TEST_LOGS a folder in which the logs of failed tests are
kept.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
from dataclasses import dataclass, field
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
SIDE_BY_SIDE = 2
ALONE = ("test_failover", "test_crash")  # measured seconds; all the load two processors take
FILE_LIMIT_S = 2400
CLEANUP_LIMIT_S = 120
AGAIN_MAX = 2
FINAL = ("Sanitizer", "ended with status", "broke the protocol", "ended without a report", "its limit of")  # never run again


@dataclass
class Report:
    """What came of one file."""

    name: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)


# ---- the child: one file's tests ----


class Counter(unittest.TestResult):
    """Counts a test as passed only where all of it, sub-tests and clean-up included, went well."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self.verbose = verbose
        self.passed: set[str] = set()
        self.bad: dict[str, list[str]] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        name = test.id()
        if name not in self.bad:
            self.passed.add(name)
        if self.verbose:
            verdict = "FAILED" if name in self.bad else "ok"
            print(f"   {name} ... {verdict} ({time.monotonic() - self.began:.1f} s)", flush=True)

    def note(self, test: Any, text: str) -> None:
        self.bad.setdefault(test.id(), []).append(text)

    def addError(self, test: Any, err: Any) -> None:
        self.note(test, "".join(traceback.format_exception(*err)[-6:]))

    def addFailure(self, test: Any, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.note(test, f"{subtest._subDescription()}\n" + "".join(traceback.format_exception(*err)[-4:]))

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(test, f"skipped: {reason}")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.note(test, "an expected failure is a failure")


def run_child(name: str, report_path: str, verbose: bool) -> int:
    """Runs the tests of `name` in this process and writes their report as JSON."""
    sys.path.insert(0, str(HERE))
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    planned = suite.countTestCases()
    result = Counter(verbose)

    def on_terminate(_number: int, _frame: Any) -> None:
        """The running test fails, cleans up behind itself, and is the last."""
        result.stop()
        raise AssertionError("the run was ended from outside")
    signal.signal(signal.SIGTERM, on_terminate)
    suite.run(result)
    failures = [(test, text) for test, texts in result.bad.items() for text in texts]
    around = ("setUpClass", "tearDownClass", "setUpModule", "tearDownModule")
    not_run = planned - len(result.passed) - sum(1 for test in result.bad if not test.startswith(around))
    broken_ends = sum(1 for test in result.bad if test.startswith("tearDownClass"))
    failed = planned - len(result.passed) + broken_ends
    if not_run > 0:
        failures.append((name, f"{not_run} tests could not be run"))
    with open(report_path, "w", encoding="utf-8") as out:
        json.dump({"passed": len(result.passed), "failed": failed, "failures": failures}, out)
    return 0


# ---- the parent ----


class Runner:
    """Runs files as processes, and ends them with what they started."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.children: list[subprocess.Popen[str]] = []
        self.interrupted = False

    def run_file(self, name: str, slot: int) -> Report:
        report = Report(name)
        if self.interrupted:
            return report
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="onward-run-") as folder:
            path = os.path.join(folder, "report.json")
            child = self._start(name, path, slot)
            printed = self._wait(child, report)
            read_report(report, path, printed)
        report.seconds = time.monotonic() - began
        return report

    def _start(self, name: str, path: str, slot: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-B", __file__, "--child", name, "--report", path]
        arguments += ["-v"] if self.verbose else []
        output = None if self.verbose else subprocess.PIPE
        child = subprocess.Popen(arguments, env={**os.environ, "ONWARD_TEST_SLOT": str(slot)}, stdout=output,
                                 stderr=subprocess.STDOUT if output else None, start_new_session=True, text=True)
        self.children.append(child)
        return child

    def _wait(self, child: subprocess.Popen[str], report: Report) -> str:
        try:
            return child.communicate(timeout=FILE_LIMIT_S)[0] or ""
        except subprocess.TimeoutExpired:
            report.failed += 1
            report.failures.append((report.name, f"took longer than its limit of {FILE_LIMIT_S} s"))
        child.terminate()  # it fails its test and cleans up
        try:
            return child.communicate(timeout=CLEANUP_LIMIT_S)[0] or ""
        except subprocess.TimeoutExpired:
            child.kill()
            return child.communicate()[0] or ""

    def interrupt(self, _number: int, _frame: Any) -> None:
        """Ctrl-C: the children clean up; what they report is printed."""
        self.interrupted = True
        for child in self.children:
            if child.poll() is None:
                child.terminate()


def read_report(report: Report, path: str, printed: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        report.passed = data["passed"]
        report.failed += data["failed"]
        report.failures += [tuple(failure) for failure in data["failures"]]
    except (OSError, ValueError):
        report.failed += 1
        report.failures.append((report.name, f"ended without a report:\n{printed[-4000:]}"))


def show(report: Report) -> None:
    verdict = f"{report.passed} passed" + (f", {report.failed} FAILED" if report.failed else "")
    print(f"   {report.name:<24} {verdict} in {report.seconds:.0f} s", flush=True)
    for test, text in report.failures:
        indented = "\n".join(f"         {line}" for line in text.rstrip().splitlines())
        print(f"      {test}:\n{indented}", flush=True)


def run_all(names: list[str], verbose: bool) -> list[Report]:
    side_by_side = [name for name in names if name.split(".")[0] not in ALONE]
    alone = [name for name in names if name not in side_by_side]
    reports = []
    runner = Runner(verbose)
    signal.signal(signal.SIGINT, runner.interrupt)
    signal.signal(signal.SIGTERM, runner.interrupt)
    slots: queue.Queue[int] = queue.Queue()
    for slot in range(SIDE_BY_SIDE):
        slots.put(slot)

    def in_a_slot(name: str) -> Report:
        slot = slots.get()
        try:
            return runner.run_file(name, slot)
        finally:
            slots.put(slot)
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for done in concurrent.futures.as_completed([pool.submit(in_a_slot, name) for name in side_by_side]):
            reports.append(done.result())
            show(reports[-1])
    for name in alone:
        reports.append(runner.run_file(name, 0))
        show(reports[-1])
    return reports


def run_again(reports: list[Report], verbose: bool) -> list[str]:
    """Runs the few failed tests once more, alone; what passes is counted so, and its name returned."""
    failures = [failure for report in reports for failure in report.failures]
    names = sorted({test for test, _text in failures})
    if not 0 < len(names) <= AGAIN_MAX or sum(report.failed for report in reports) != len(names):
        return []
    if any(test.count(".") != 2 or any(mark in text for mark in FINAL) for test, text in failures):
        return []
    print("   run again, alone:", flush=True)
    runner = Runner(verbose)
    unsteady = []
    for name in names:
        again = runner.run_file(name, 0)
        show(again)
        if again.passed == 1 and again.failed == 0:
            first = next(report for report in reports if any(test == name for test, _text in report.failures))
            first.passed, first.failed = first.passed + 1, first.failed - 1
            unsteady.append(name)
    return unsteady


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-v", "--verbose", action="store_true", help="a line per test")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="files, classes or tests; all files where none is named")
    arguments = parser.parse_args()
    if arguments.child:
        return run_child(arguments.child, arguments.report, arguments.verbose)
    names = [pathlib.Path(name).name.removesuffix(".py") for name in arguments.names]
    names = names or sorted(path.stem for path in HERE.glob("test_*.py"))
    reports = run_all(names, arguments.verbose)
    for name in run_again(reports, arguments.verbose):
        print(f"unsteady, passed only alone: {name}")
    passed, failed = sum(r.passed for r in reports), sum(r.failed for r in reports)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
