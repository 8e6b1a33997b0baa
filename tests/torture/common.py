"""What the three tortures share: checks that are counted, messages that prove themselves, a relay that is spoken to by hand."""

from __future__ import annotations

import collections
import pathlib
import random
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from harness import ORIGIN, World, merge  # noqa: E402  (its folder was just put on the path)

TOOLS = ROOT / "build" / "release" / "torture"
POSTBOX = f"postbox.{ORIGIN}"
DOMAINS = 8
LINE = 72
BDAT_BYTES = 60_000  # larger contents are submitted in several chunks


class Checks:
    """Counts what held and what did not, and says so."""

    def __init__(self, title: str) -> None:
        self.passed = self.failed = 0
        self.began = time.monotonic()
        print(f"-- {title}", flush=True)

    def note(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def check(self, name: str, well: bool, detail: str = "") -> bool:
        self.passed += well
        self.failed += not well
        if not well:
            self.note(f"FAILED: {name}{': ' if detail else ''}{detail}")
        return well

    def finish(self) -> int:
        print(f"   {time.monotonic() - self.began:.1f} s")
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 else 1


@dataclass
class Message:
    """A message whose addresses tell its id, so that whoever sees one of them knows what it belongs to.

    The sink (sink.c) refuses "never." for good and "later." once. The sender is told of the former by a bounce, so
    a message has one such recipient at most, and every address here is to be seen exactly once at a sink.
    """

    id: str
    recipients: list[str]
    body_bytes: int
    given_up: bool = False  # its last chunk is not sent: it must never arrive
    accepted_s: float = 0.0  # when its 250 was read; 0: it was not
    _body: bytes = field(default=b"", repr=False)

    @property
    def sender(self) -> str:
        return f"s.{self.id}@{POSTBOX}"

    def expected(self) -> list[str]:
        """The addresses that must each be reached once."""
        good = [r for r in self.recipients if not r.startswith("never.")]
        return good + ([self.sender] if len(good) < len(self.recipients) else [])

    def body(self) -> bytes:
        line = (f"{self.id} " + "0123456789" * 7)[:LINE - 2].encode() + b"\r\n"
        return line * max(1, self.body_bytes // LINE)

    def body_sum(self) -> tuple[int, int]:
        """Size and CRC as the sink counts them: from the CRLF of the blank line to before that of the last line."""
        counted = b"\r\n" + self.body()[:-2]
        return len(counted), zlib.crc32(counted)

    def content(self) -> bytes:
        body = self.body()
        head = (f"From: <{self.sender}>\r\nSubject: {self.id}\r\nMessage-ID: <{self.id}@{ORIGIN}>\r\n"
                f"X-Sum: {len(body)} {zlib.crc32(body):08x}\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n")
        return head.encode() + body

    def commands(self) -> tuple[bytes, int]:
        """The whole transaction, pipelined, and how many replies it earns."""
        content = self.content()
        parts = [content[at:at + BDAT_BYTES] for at in range(0, len(content), BDAT_BYTES)]
        wire = [f"MAIL FROM:<{self.sender}>\r\n".encode()]
        wire += [f"RCPT TO:<{r}>\r\n".encode() for r in self.recipients]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            if last and self.given_up:
                wire.append(b"RSET\r\n")
            else:
                wire.append(f"BDAT {len(part)}{' LAST' if last else ''}\r\n".encode() + part)
        return b"".join(wire), len(wire)


# Kind, weight, recipients (least, most), body bytes (least, most).
SHAPES = (("small", 40, (1, 1), (100, 2_000)), ("medium", 20, (1, 2), (4_000, 16_000)),
          ("large", 6, (1, 2), (70_000, 400_000)), ("many", 8, (5, 30), (300, 4_000)),
          ("later", 12, (1, 3), (300, 6_000)), ("never", 8, (1, 3), (300, 6_000)),
          ("given_up", 6, (1, 1), (130_000, 300_000)))


def make_message(rng: random.Random, message_id: str, shapes: tuple = SHAPES) -> Message:
    """One of the shapes, at random."""
    kind, _, recipients, size = rng.choices(shapes, weights=[shape[1] for shape in shapes])[0]
    count = rng.randint(*recipients)
    names = [f"r.{message_id}.{n}@d{rng.randrange(DOMAINS)}.{ORIGIN}" for n in range(count)]
    if kind in ("later", "never"):
        names[0] = f"{kind}{names[0][1:]}"
    return Message(message_id, names, rng.randint(*size), given_up=kind == "given_up")


# ---- the surroundings ----


class Sink:
    """The sink's process. Ends with its world."""

    def __init__(self, world: World, hung: str | None = None) -> None:
        self.journal = world.folder / "journal"
        arguments = [str(TOOLS / "sink"), str(world.delivery_port), str(self.journal)] + ([hung] if hung else [])
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        world.helpers.append(self)
        self._read("listening")

    def _read(self, expected: str) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline() != expected + "\n":
            raise AssertionError("the sink has ended")

    def write_out(self) -> None:
        """From now on the journal's file has all that was taken so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self._read("written")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # that ends it
        self.process.wait(60)


def build_world(hung: str | None = None, with_sink: bool = True, **config: Any) -> tuple[World, Sink | None]:
    """A zone of DOMAINS domains (the first at 127.0.0.11, and so on) and the senders', all at one sink with a journal."""
    world = World(**merge({"retry": {"first": "500ms", "max": "1s"}, "log": {"deliveries": False},
                           "delivery": {"connections_per_destination": 4}}, config))
    for n in range(DOMAINS):
        world.mx(f"d{n}", world.address())
    world.mx(POSTBOX.split(".", maxsplit=1)[0], world.address())
    world.zone.start()
    return world, Sink(world, hung) if with_sink else None


def start_submitter(world: World, seed: int, sessions: int) -> subprocess.Popen[str]:
    """Submits until it is stopped; then the world's folder has "submitted"."""
    program = pathlib.Path(__file__).with_name("submitter.py")
    return subprocess.Popen([sys.executable, str(program), "--port", str(world.relay.port), "--seed", str(seed),
                             "--sessions", str(sessions), "--out", str(world.folder / "submitted")],
                            stdin=subprocess.PIPE, text=True)


def stop_submitter(submitter: subprocess.Popen[str]) -> None:
    submitter.communicate("", timeout=300)


def read_journal(path: pathlib.Path) -> dict[str, list[tuple[float, int, int]]]:
    """For each address, when it was reached and what came, in order of time."""
    seen: dict[str, list[tuple[float, int, int]]] = collections.defaultdict(list)
    with open(path, encoding="ascii") as file:
        for line in file:
            seconds, address, size, crc = line.split()
            seen[address].append((float(seconds), int(size), int(crc, 16)))
    return seen


def submit_one(port: int, message: Message, limit_s: float = 60.0) -> str:
    """Submits it in a session of its own, and notes its 250. Returns the first reply that refuses something, or the last;
    "" where the connection was lost before."""
    commands, replies = message.commands()
    line = ""
    try:
        with socket.create_connection(("127.0.0.1", port), limit_s) as sock, sock.makefile("rb") as lines:
            lines.readline()
            sock.sendall(b"EHLO client.example.org\r\n")
            while lines.readline()[3:4] == b"-":
                continue
            sock.sendall(commands)
            for _ in range(replies):
                line = lines.readline().decode()
                if not line.startswith("250"):
                    return line
    except OSError:
        return ""
    if not message.given_up:
        message.accepted_s = time.monotonic()
    return line
