#!/usr/bin/env python3
"""Submits messages of all shapes on several sessions for as long as its standard input is open, whatever becomes of the relay.

    submitter.py --port N --seed N --sessions N --out FILE [--prefix TEXT]

At its end FILE has a line for each message it has begun: "TIME SHAPE BODY-BYTES ID RECIPIENT...", TIME being when its 250
was read (0.0: it was not) and SHAPE "whole" or "given-up".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time

from common import Message, make_message

AHEAD_MAX = 5  # transactions written at once
RECONNECT_S = 0.005
REPLY_LIMIT_S = 60


class Session:
    """One client: connects, submits, and begins anew where the connection is lost."""

    def __init__(self, arguments: argparse.Namespace, number: int) -> None:
        self.port = arguments.port
        self.name = f"{arguments.prefix}{number}"
        self.rng = random.Random(f"{arguments.seed} {number}")
        self.messages: list[Message] = []

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                await self._connected()
            await asyncio.sleep(RECONNECT_S)

    async def _connected(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._reply(reader)
            writer.write(b"EHLO client.example.org\r\n")
            await self._reply(reader)
            while True:
                await self._some(reader, writer)
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(REPLY_LIMIT_S):
            while True:
                line = await reader.readuntil(b"\n")
                if line[3:4] == b" ":
                    return line

    async def _some(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        batch = [make_message(self.rng, f"{self.name}-{len(self.messages) + n}")
                 for n in range(self.rng.randint(1, AHEAD_MAX))]
        self.messages += batch
        counts = []
        for message in batch:
            commands, replies = message.commands()
            writer.write(commands)
            counts.append(replies)
        await writer.drain()
        for message, replies in zip(batch, counts):
            for _ in range(replies):
                line = await self._reply(reader)
            if line.startswith(b"250") and not message.given_up:
                message.accepted_s = time.monotonic()


async def until_told(sessions: list[Session]) -> None:
    tasks = [asyncio.create_task(session.run()) for session in sessions]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--prefix", default="m")
    arguments = parser.parse_args()
    sessions = [Session(arguments, number) for number in range(arguments.sessions)]
    asyncio.run(until_told(sessions))
    with open(arguments.out, "w", encoding="ascii") as out:
        for session in sessions:
            for m in session.messages:
                shape = "given-up" if m.given_up else "whole"
                print(f"{m.accepted_s:.6f} {shape} {m.body_bytes} {m.id} {' '.join(m.recipients)}", file=out)


if __name__ == "__main__":
    main()
