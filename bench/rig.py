"""What bench/scale and tests/e2e/test_scale.py measure with: the sink (bench/sink.c) and a submitter of many messages.

Names, the relay and its name server are those of the end-to-end tests (tests/e2e/harness.py).
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from harness import ORIGIN, World, wait_until  # noqa: E402  (its folder was just put on the path)

PROGRAM = ROOT / "build" / "release" / "bench" / "sink"
SENDER = f"sender@postbox.{ORIGIN}"
REPLIES_PER_MESSAGE = 3  # MAIL, RCPT, BDAT
AHEAD = 32  # messages written at once on a connection


class Sink:
    """The sink's process, and the conversation with it. Ends with its world."""

    def __init__(self, world: World, hung: Sequence[str] = (), well: Sequence[str] = ()) -> None:
        if not PROGRAM.exists():
            raise AssertionError(f"{PROGRAM} is missing; build it with: make bench-tools")
        arguments = [str(PROGRAM), "--port", str(world.delivery_port)]
        for prefix in hung:
            arguments += ["--hung", prefix]
        for prefix in well:
            arguments += ["--well", prefix]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        world.helpers.append(self)
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the sink has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"the sink did not understand: {answer['error']}")
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        return self._read()

    def hang(self, prefix: str) -> float:
        """Returns the time of it, like `heal`."""
        return self.ask(f"hang {prefix}")["t"]

    def heal(self, prefix: str) -> float:
        return self.ask(f"heal {prefix}")["t"]

    def goal(self, group: str, count: int) -> None:
        self.ask(f"goal {group} {count}")

    def group(self, group: str) -> dict[str, Any]:
        """The counts of the messages whose id begins with this letter."""
        none = {"messages": 0, "distinct": 0, "duplicates": 0, "recipients": 0, "first_s": 0, "last_s": 0, "goal_s": 0}
        return self.ask("figures")["groups"].get(group, none)

    def prefix(self, prefix: str) -> dict[str, Any]:
        return self.ask("figures")["prefixes"][prefix]

    def wait_goal(self, group: str, limit: float) -> float:
        """Waits for the group's goal, and returns when it was reached."""
        return wait_until(lambda: self.group(group)["goal_s"], f"the goal of group {group}", limit, pause=0.05)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # that ends it
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Message:
    """One message to submit. Its id begins with its group's letter."""

    id: str
    recipient: str


def content_of(message: Message, size: int) -> bytes:
    head = (f"From: <{SENDER}>\r\nSubject: {message.id}\r\nMessage-ID: <{message.id}@{ORIGIN}>\r\nX-Id: {message.id}\r\n"
            "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n").encode()
    line = b"0123456789" * 7 + b"\r\n"
    return head + line * max(1, (size - len(head)) // len(line))


def transaction_of(message: Message, size: int) -> bytes:
    """One message as pipelined commands; its content goes as a chunk, so nothing waits for a 354."""
    content = content_of(message, size)
    return (f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{message.recipient}>\r\nBDAT {len(content)} LAST\r\n").encode() + content


async def _read_replies(reader: asyncio.StreamReader, count: int) -> None:
    """Reads `count` one-line replies; all must be 250."""
    rest = b""
    while count > 0:
        data = await reader.read(65536)
        if not data:
            raise AssertionError("the relay closed a submitter's connection")
        *lines, rest = (rest + data).split(b"\r\n")
        for line in lines:
            if not line.startswith(b"250 "):
                raise AssertionError(f"the relay refused mail: {line.decode()}")
        count -= len(lines)


async def _submit_some(port: int, messages: Sequence[Message], size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO client.example.org\r\n")
    while not (await reader.readline()).startswith(b"250 "):
        continue
    replies = asyncio.create_task(_read_replies(reader, len(messages) * REPLIES_PER_MESSAGE))
    for at in range(0, len(messages), AHEAD):
        writer.write(b"".join(transaction_of(message, size) for message in messages[at:at + AHEAD]))
        await writer.drain()
    await replies
    writer.write(b"QUIT\r\n")
    writer.close()


async def _submit_all(port: int, messages: Sequence[Message], size: int, connections: int) -> None:
    parts = [messages[number::connections] for number in range(connections)]
    await asyncio.gather(*(_submit_some(port, part, size) for part in parts if part))


def submit(port: int, messages: Sequence[Message], size: int = 2048, connections: int = 40) -> tuple[float, float]:
    """Submits all messages as fast as the relay takes them; returns the times of the start and of the last 250."""
    began = time.monotonic()
    asyncio.run(_submit_all(port, messages, size, connections))
    return began, time.monotonic()
