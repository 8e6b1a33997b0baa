#!/usr/bin/env python3
"""Fills real file systems, tmpfs and ext4, with the spool's own backlog and with other people's files. Needs root, to mount.

    fulldisk.py [--seed N]

With a floor of free space: no exchange is to be reached, and mail is submitted until it is refused, which must be by 452
before the disk is full. Then the exchanges are back, the backlog goes out, and mail is taken again, though the file that
filled the disk is as large as before.

Without a floor: the disk fills up to its last block. The relay refuses mail and goes on: what it must note it finds room for
behind its file, where nobody else could take it. It is started again on the full disk, the exchanges come back, and the
backlog goes out; then somebody makes room, mail is taken again, and all that got its 250 has arrived, whole.

Without room for a spool: the relay says so and does not start.
"""

from __future__ import annotations

import argparse
import errno
import os
import pathlib
import random
import subprocess
import sys

from common import Checks, Message, Sink, build_world, read_journal, submit_one

from harness import BINARY, Process, World, tool, wait_until

DISK_MB = 220
FLOOR_MB = 80
LEFT_MB = 25  # without a floor: what the others' files leave at first
MESSAGE_BYTES = 400_000
MESSAGES_MAX = 1500
DRAIN_LIMIT_S = 600.0
ROOM_LIMIT_S = 120.0
TOO_LITTLE_MB = 3
REFUSED_START = 75  # EX_TEMPFAIL


class Disk:
    """A small file system of its own."""

    def __init__(self, world: World, kind: str) -> None:
        self.path = world.folder / kind
        self.path.mkdir()
        self.ballast = self.path / "ballast"
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "none", self.path]
        else:
            image = world.folder / "disk.img"
            with open(image, "wb") as file:
                file.truncate(DISK_MB << 20)
            subprocess.run([tool("mkfs.ext4"), "-q", "-F", image], check=True, capture_output=True)
            command = ["mount", "-o", "loop", image, self.path]
        subprocess.run(command, check=True, capture_output=True)

    def free_bytes(self) -> int:
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize

    def fill(self, left_bytes: int) -> None:
        """Somebody else's file takes all but so much."""
        with open(self.ballast, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, self.free_bytes() - left_bytes))

    def fill_up(self) -> None:
        """And now the rest, to the last block."""
        size = 1 << 20
        with open(self.ballast, "ab", buffering=0) as file:
            while size > 0:
                try:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def stop(self) -> None:
        subprocess.run(["umount", self.path], check=False, capture_output=True)


class Case:
    """One disk, one relay, and what was submitted to it."""

    def __init__(self, kind: str, floor: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world, self.sink = build_world(with_sink=False, retry={"first": "300ms", "max": "1s"}, drain_timeout="5s",
                                            health={"down_first": "200ms"})
        self.disk = Disk(self.world, kind)
        self.world.helpers.append(self.disk)
        self.world.relay.write_config(spool={"path": str(self.disk.path / "spool"), "free_floor": floor})
        self.messages: list[Message] = []

    def launch(self) -> None:
        relay = self.world.relay
        self.process = Process([BINARY, "serve", "-c", relay.config_path], relay.folder, "onward")

    def serve(self) -> None:
        relay = self.world.relay
        self.launch()
        wait_until(lambda: self.process.require_running() or relay._is_controllable(), "the relay to start")

    def submit(self) -> str:
        number = len(self.messages)
        message = Message(f"full-{number}", [f"r.full-{number}@d{self.rng.randrange(8)}.example.net"], MESSAGE_BYTES)
        self.messages.append(message)
        return submit_one(self.world.relay.port, message)

    def submit_until_refused(self) -> str:
        """The first reply that is not a 250; "" where the relay has gone."""
        for _ in range(MESSAGES_MAX):
            reply = self.submit()
            if not reply.startswith("250"):
                return reply
        return "250: everything was taken"

    def is_taken_again(self) -> bool:
        """Waits for it: a file system may give freed blocks back late (ext4: with its journal's next commit), and the relay
        looks at its disk a few times a second."""
        return wait_until(lambda: self.submit().startswith("250"), "mail to be taken again", ROOM_LIMIT_S, 0.1)

    def attempts(self) -> int:
        """Deferrals so far."""
        return self.world.relay.json("status")[0]["workers"]["recipients_deferred"]

    def bring_exchanges_back(self) -> None:
        self.sink = Sink(self.world)

    def is_drained(self) -> bool:
        try:
            return self.world.relay.json("status")[0]["spool"]["recipients_queued"] == 0
        except AssertionError:  # it is just ending
            return False

    def wait_drained_or_ended(self) -> None:
        wait_until(lambda: not self.process.running() or self.is_drained(), "the backlog to go out", DRAIN_LIMIT_S, 0.1)

    def lost(self) -> list[str]:
        """Of what was accepted, what did not arrive or not whole."""
        assert self.sink is not None
        self.sink.write_out()
        seen = read_journal(self.sink.journal)
        return [m.id for m in self.messages if m.accepted_s and
                (not seen.get(m.recipients[0]) or any(tuple(rest) != m.body_sum() for _, *rest in seen[m.recipients[0]]))]

    def end(self) -> int:
        """The status it ends with, at SIGTERM or by itself."""
        if self.process.running():
            self.process.popen.terminate()
        return self.process.wait()


def with_floor(checks: Checks, kind: str, seed: int) -> None:
    case = Case(kind, f"{FLOOR_MB}MB", seed)
    try:
        case.serve()
        reply = case.submit_until_refused()
        backlog = len(case.messages)
        free_mb = case.disk.free_bytes() / 1e6
        checks.check(f"{kind}: below the floor mail is refused with 452", reply.startswith("452"), reply)
        checks.check(f"{kind}: the floor is kept", free_mb > FLOOR_MB - 50, f"{free_mb:.0f} MB are left")
        case.bring_exchanges_back()
        case.wait_drained_or_ended()
        checks.check(f"{kind}: mail is taken again behind the backlog", case.is_taken_again())
        case.wait_drained_or_ended()
        status, lost = case.end(), case.lost()
        checks.check(f"{kind}: it went on all the time", status == 0, f"status {status}: {case.process.stderr()[-300:]}")
        checks.check(f"{kind}: all that was accepted arrives", not lost, str(lost[:5]))
        checks.note(f"{kind} with a floor of {FLOOR_MB} MB: refused after {backlog - 1} messages with {free_mb:.0f} MB left; "
                    f"lost {len(lost)}")
    finally:
        case.world.cleanup(None)


def without_floor(checks: Checks, kind: str, seed: int) -> None:
    case = Case(kind, "0B", seed)
    try:
        case.serve()
        case.submit()
        case.disk.fill(LEFT_MB << 20)
        reply = case.submit_until_refused()
        backlog = len(case.messages) - 1
        checks.check(f"{kind}: on the full disk mail is refused with 452", reply.startswith("452"), reply)
        case.disk.fill_up()
        wait_until(lambda: case.attempts() > 3 * backlog, "deferrals on the full disk", DRAIN_LIMIT_S, 0.1)
        checks.check(f"{kind}: it ends well on the full disk", case.end() == 0, case.process.stderr()[-300:])
        case.serve()
        case.bring_exchanges_back()
        case.wait_drained_or_ended()
        checks.check(f"{kind}: it starts and delivers on the full disk", case.process.running(), case.process.stderr()[-300:])
        free_kb = case.disk.free_bytes() >> 10
        case.disk.ballast.unlink()
        checks.check(f"{kind}: mail is taken again once there is room", case.is_taken_again())
        case.wait_drained_or_ended()
        status, lost = case.end(), case.lost()
        checks.check(f"{kind}: all that was accepted on the full disk arrives", status == 0 and not lost,
                     f"status {status}, lost {lost[:5]}")
        checks.note(f"{kind} without a floor: full after {backlog} messages, which went out with {free_kb} KB free on the disk; "
                    f"lost {len(lost)}")
    finally:
        case.world.cleanup(None)


def without_room(checks: Checks, kind: str, seed: int) -> None:
    case = Case(kind, "0B", seed)
    try:
        case.disk.fill(TOO_LITTLE_MB << 20)
        case.launch()
        status, said = case.process.wait(), case.process.stderr()
        checks.check(f"{kind}: without room for a spool it does not start", status == REFUSED_START and
                     "no room for the spool" in said and "make room" in said, f"status {status}: {said[-300:]}")
        case.disk.ballast.unlink()
        case.serve()
        checks.check(f"{kind}: with room it starts", case.is_taken_again())
        checks.check(f"{kind}: it ends well", case.end() == 0)
    finally:
        case.world.cleanup(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_namespace:  # what is mounted is seen by nobody else, and goes with us
        os.execv(tool("unshare"), ["unshare", "-m", sys.executable, str(pathlib.Path(__file__)), "--in-namespace",
                                   "--seed", str(arguments.seed)])
    checks = Checks(f"full disk: {DISK_MB} MB of tmpfs and of ext4, seed {arguments.seed}")
    for kind in ("tmpfs", "ext4"):
        with_floor(checks, kind, arguments.seed)
        without_floor(checks, kind, arguments.seed)
        without_room(checks, kind, arguments.seed)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
