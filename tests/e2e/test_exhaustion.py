"""Out of memory and out of descriptors, at every point of a run.

tests/preload/failing.c makes the n-th allocation of the process fail, or the n-th call that takes a descriptor or a
connection: ours and those of the libraries alike. For every n of a fixed piece of work (a message to two domains that
nobody knows yet, one of which refuses it, so that a bounce follows; the queue and the status asked for) the work is done
once more with that call failing. Mail is refused or deferred, never lost; the process goes on. While it starts, it says
why it cannot, and exits.

Three libraries do not survive all of it. libunbound 1.17.1 dereferences NULL in its iterator (processQueryTargets) now and
then when its allocations fail; libseccomp 2.5.4, at the start, crashes, turns in a circle or writes a filter that lacks
calls (it then serves, but learns of no signal); glibc 2.36, while it looks up the user to become, dereferences NULL or
asserts. Where the process ends right after such a failure, or never does, that is counted and printed; that nothing is
lost by it is asserted like for the rest.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import smtplib
import socket
import struct
import sys
import time

from harness import (BINARY, SANITIZED, WAIT_LIMIT, E2ETest, ORIGIN, Process, Relay, World, content_of, main, message, stays,
                     wait_until)

ALLOCATIONS, DESCRIPTORS = 0, 1
NAMES = ("allocation", "descriptor")
FRAIL_S = 30  # so long after a failure in it, a crash may be libunbound's
STUCK_S = 20  # what has not ended by then, where others take milliseconds, never does
BURST = 50  # calls that fail in a row, for the second round
QUICK_RETRIES = {"first": "100ms", "max": "500ms", "age_limit": "10m"}


class Faults:
    """The file shared with tests/preload/failing.c: calls, at, count, failed, and of these in a frail library, for each kind."""

    def __init__(self, relay: Relay) -> None:
        self.map = relay.preload("failing", "ONWARD_FAULTS", 80)

    def _get(self, kind: int, place: int) -> int:
        return struct.unpack_from("<Q", self.map, kind * 40 + place * 8)[0]

    def _set(self, kind: int, place: int, value: int) -> None:
        struct.pack_into("<Q", self.map, kind * 40 + place * 8, value)

    def calls(self, kind: int) -> int:
        return self._get(kind, 0)

    def failed(self, kind: int) -> int:
        return self._get(kind, 3)

    def frail(self) -> int:
        """How many of the failed allocations were asked for by a library that does not survive all."""
        return self._get(ALLOCATIONS, 4)

    def fail(self, kind: int, at: int, count: int = 1) -> None:
        """Call number `at` and the following fail; 0: none."""
        self._set(kind, 2, count)
        self._set(kind, 1, at)

    def reset(self) -> None:
        self.map[:] = bytes(len(self.map))


class Exhaustion(E2ETest):
    """The whole relay with a call that fails."""

    limit_s = 240

    def setUp(self) -> None:
        super().setUp()
        self.world_ = self.world(retry=QUICK_RETRIES, health={"down_first": "100ms", "demote_first": "100ms"},
                                 workers={"threads": 1}, delivery={"tls": "off", "idle": "0s"})
        world = self.world_
        good = world.exchange("good")
        bad = world.exchange("reply@RCPT/no=550 5.1.1 No such user")
        world.zone.add(f"*.good MX 10 mx-good", f"mx-good A {good}", f"*.bad MX 10 mx-bad", f"mx-bad A {bad}")
        self.faults = Faults(world.relay)
        self.accepted: dict[str, list[str]] = {}
        self.deaths: list[str] = []
        self.number = 0
        self.spared = 0  # failures in frail libraries that were survived
        self.frail_until = 0.0
        self.frail_deaths = 0

    def work(self, limit: float = 5) -> None:
        """One message with two recipients, and two questions; what got its 250 is noted."""
        self.number += 1
        name = f"m{self.number}"
        recipients = [f"r@d{self.number}.good.{ORIGIN}", f"no@d{self.number}.bad.{ORIGIN}"]
        sender = f"s@d{self.number}.good.{ORIGIN}"
        try:
            with self.world_.relay.connect(limit) as client:
                client.ehlo()
                if client.mail(sender)[0] != 250:
                    return
                taken = [r for r in recipients if client.rcpt(r)[0] == 250]
                if taken and client.data(message(name, content_of(70_000)))[0] == 250:
                    self.accepted[name] = [r for r in taken if not r.startswith("no@")]
                    self.accepted[name] += [sender] if len(taken) == 2 else []
        except (smtplib.SMTPException, OSError):
            return  # no reply, so nothing was promised

    def ask(self) -> None:
        """The queue and the status on the control socket; an answer, an error or a closed connection will do."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            sock.connect(self.world_.relay.config["control"]["socket"])
            for operation in ("queue.list", "status"):
                sock.sendall(json.dumps({"op": operation}).encode() + b"\n")
                answer = b""
                while b'"done"' not in answer:
                    part = sock.recv(65536)
                    if not part:
                        return
                    answer += part

    def taken(self) -> set[str]:
        """The recipients that got their message, and the senders that got their bounce."""
        return {r for record in self.world_.exchanges.accepted() for r in record["recipients"]}

    def is_done(self) -> bool:
        promised = self.accepted.get(f"m{self.number}", [])
        return set(promised) <= self.taken()

    def note_frail(self) -> None:
        """What libunbound trips over may come later: when the query that has suffered is due again."""
        if self.faults.frail() > self.spared:
            self.spared = self.faults.frail()
            self.frail_until = time.monotonic() + FRAIL_S

    def check_alive(self, what: str) -> None:
        relay = self.world_.relay
        assert relay.process is not None
        if relay.process.running():
            return
        self.note_frail()
        if time.monotonic() < self.frail_until and relay.process.popen.returncode == -signal.SIGSEGV:
            self.frail_deaths += 1
        else:
            self.deaths.append(f"{what}: status {relay.process.popen.returncode}: {relay.process.stderr()[-300:]}")
        self.faults.reset()
        relay.process = None
        relay.start()
        self.spared = 0

    def measure(self, kind: int) -> int:
        """How many calls the work takes, once all that is done but once has been done."""
        for _ in range(3):
            before = self.faults.calls(kind)
            self.work()
            self.ask()
            wait_until(self.is_done, "the work to be done")
            wait_until(lambda: stays(lambda was=self.faults.calls(kind): self.faults.calls(kind) == was, 0.3),
                       "the relay to come to rest")
        return self.faults.calls(kind) - before

    def fail_each(self, kind: int, count: int, step: int) -> None:
        total = self.measure(kind)
        tried = 0
        for n in range(1, total + 1, step):
            failed = self.faults.failed(kind)
            self.faults.fail(kind, self.faults.calls(kind) + n, count)
            self.work()
            self.ask()
            end = time.monotonic() + 10
            while self.faults.failed(kind) == failed and not self.is_done() and time.monotonic() < end:
                time.sleep(0.002)
            self.check_alive(f"{NAMES[kind]} {n} of {total}")
            self.note_frail()
            tried += self.faults.failed(kind) > failed
        self.faults.fail(kind, 0)
        print(f"   {tried} of {total} {NAMES[kind]}s failed, {count} at a time; {len(self.accepted)} of {self.number} "
              f"messages got their 250; libunbound ended it {self.frail_deaths} times", file=sys.stderr)
        self.assertGreater(tried, total // step // 2)

    def check_nothing_lost(self) -> None:
        self.assertEqual(len(self.deaths), 0, "\n".join(self.deaths))
        self.assertLess(self.frail_deaths, 15)  # of hundreds of failures; more of them on a busy machine
        promised = {r for names in self.accepted.values() for r in names}
        wait_until(lambda: promised <= self.taken(), "every message that got its 250, and every bounce", limit=150,
                   pause=0.2)
        self.world_.relay.wait_drained()
        self.work(WAIT_LIMIT)
        self.assertIn(f"m{self.number}", self.accepted)  # it takes mail as before
        wait_until(self.is_done, "a message after all of it")

    def run_kind(self, kind: int, count: int, step: int) -> None:
        self.world_.start()
        self.fail_each(kind, count, step)
        self.check_nothing_lost()


class Running(Exhaustion):
    """It runs, and something is refused to it."""

    def test_each_descriptor_refused(self) -> None:
        self.run_kind(DESCRIPTORS, 1, 1)

    def test_descriptors_refused_for_a_while(self) -> None:
        self.run_kind(DESCRIPTORS, BURST, 3)


class RunningWithoutMemory(Exhaustion):
    """The same for memory. A sanitizer keeps the allocator to itself, so these are for the real one."""

    def test_each_allocation_refused(self) -> None:
        self.run_kind(ALLOCATIONS, 1, 1)

    def test_allocations_refused_for_a_while(self) -> None:
        self.run_kind(ALLOCATIONS, BURST, 20)


class Start(Exhaustion):
    """It starts, and something is refused to it: it says why it cannot start, or it starts."""

    def how_it_ends(self, process: Process, what: str) -> str:
        """By itself; told to, where it serves; or never: a failure in a frail library makes it turn in a circle."""
        def is_stuck(since: float) -> bool:
            return self.faults.frail() > 0 and time.monotonic() - since > STUCK_S

        begun = time.monotonic()
        relay = self.world_.relay
        wait_until(lambda: not process.running() or relay._is_controllable() or is_stuck(begun), f"{what}: a start or an end")
        serves = process.running()
        if serves:
            process.signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until(lambda: not process.running() or is_stuck(told), f"{what}: an end")
        if process.running():
            return "never"
        return "told to" if serves else "by itself"

    def start_once(self, kind: int, n: int) -> str | None:
        """What was wrong, or None."""
        relay = self.world_.relay
        self.faults.reset()
        self.faults.fail(kind, n)
        process = Process([BINARY, "serve", "-c", relay.config_path], relay.folder, f"start-{n}", relay.env)
        self.addCleanup(process.kill)
        how = self.how_it_ends(process, f"{NAMES[kind]} {n}")
        if how == "never":
            self.frail_deaths += 1
            process.kill()
            return None
        if how == "told to" and process.popen.returncode == 0:
            return None  # otherwise HTTP, which comes behind the control socket, could not start
        status, said = process.popen.returncode, process.stderr()
        said_why = said.startswith("onward: ") and "assertion" not in said
        if said_why and 64 <= status <= 78:
            return None
        if self.faults.frail() > 0:
            self.frail_deaths += 1
            return None
        return f"{NAMES[kind]} {n}: ended with status {status}, saying {said[:200]!r}"

    def start_each(self, kind: int, first: int, samples: int) -> None:
        """Fails each of the `first` calls of a start, and as many of the others as `samples` says, from a fixed seed."""
        self.world_.zone.start()
        self.world_.exchanges.start()
        self.faults.reset()
        self.start_once(kind, 0)
        total = self.faults.calls(kind)
        tried = list(range(1, min(first, total) + 1))
        others = range(len(tried) + 1, total + 1)
        tried += sorted(random.Random(1).sample(others, min(samples, len(others))))
        wrong = [what for n in tried if (what := self.start_once(kind, n)) is not None]
        print(f"   {len(tried)} of {total} {NAMES[kind]}s failed at a start; a frail library ended "
              f"{self.frail_deaths} without a word, or kept them from it", file=sys.stderr)
        self.assertEqual(len(wrong), 0, "\n".join(wrong))


class Starting(Start):
    """Descriptors."""

    def test_each_descriptor_refused(self) -> None:
        self.start_each(DESCRIPTORS, 1000, 0)


class StartingWithoutMemory(Start):
    """Memory."""

    def test_allocations_refused(self) -> None:
        self.start_each(ALLOCATIONS, 200, 200)


if SANITIZED:
    del RunningWithoutMemory, StartingWithoutMemory

if __name__ == "__main__":
    main()
