#!/usr/bin/env python3
"""A mail exchange for tests: the server side of SMTP (RFC 5321), with a fault to order.

    exchange.py --folder DIR [--cert FILE --key FILE] ADDRESS:PORT/BEHAVIOUR ...

One process listens on many addresses, each with its own behaviour, and prints "ready" when it does.
In DIR it writes

    events.jsonl     one line per thing that happened: a connection, a command, a fault, a violation of
                     the protocol by the client; with monotonic times, so that tests count instead of guess
    accepted.jsonl   one line per message taken, written before its 250: envelope, size, checksum, file
    N.eml            the messages as they came, dots unstuffed

A behaviour is a list of words joined by ";":

    good                        verifies and takes everything
    FAULT@PHASE[/LOCALPART][=ARGUMENT]
                                where FAULT is one of
        silent                  says nothing [for ARGUMENT seconds, then closes]
        delay                   answers after ARGUMENT seconds
        hold                    answers when the file of `while` has gone
        trickle                 an endless reply, a byte every ARGUMENT (1) seconds
        stutter                 the right reply, a byte every ARGUMENT (0.05) seconds; "1,10": so for the first ten
        garbage                 bytes that are not SMTP
        flood                   an endless multi-line reply, as fast as it goes
        close, reset            ends the connection in place of the reply
        reply                   answers ARGUMENT, e.g. "450 4.2.0 Later"; 421 closes, and so does any in the BODY
        inject                  the right reply with a second one glued to it, [ARGUMENT]
        halt                    (BODY) stops reading
        sip                     (BODY) reads ARGUMENT (100000) bytes a second
        lose                    (DOT) takes the message, then closes without a reply [after ARGUMENT seconds]
                                and PHASE one of GREETING EHLO HELO STARTTLS TLS MAIL RCPT DATA BODY DOT RSET;
                                /LOCALPART narrows a fault at RCPT to that local part
    while=PATH                  faults hold only while that file exists
    first=N                     faults hold only for the first N connections to this address
    backlog                     (alone) the kernel's accept queue is full: a SYN is never answered
    starttls                    offers STARTTLS; `tls-only` refuses MAIL outside of it
    corked                      inside of TLS, what it says waits in the kernel a moment and then comes at once
    no-ehlo no-pipelining no-8bitmime no-smtputf8 no-dsn no-chunking no-size no-enhanced
    size=N rcpt-max=N mail-max=N  the limits: SIZE, 452 behind N recipients, 421 behind N messages
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

PHASES = ("GREETING", "EHLO", "HELO", "STARTTLS", "TLS", "MAIL", "RCPT", "DATA", "BODY", "DOT", "RSET", "QUIT")
FAULTS = ("silent", "delay", "hold", "trickle", "stutter", "garbage", "flood", "close", "reset", "reply", "inject",
          "halt", "sip", "lose")
EXTENSIONS = ("pipelining", "8bitmime", "smtputf8", "dsn", "chunking", "size", "enhanced")
WORDS = ("good", "starttls", "tls-only", "corked", "no-ehlo", "backlog", *(f"no-{name}" for name in EXTENSIONS))
LIMITS = ("size", "rcpt-max", "mail-max", "first")
LINE_MAX = 4096  # a command line; ours are far shorter
SMALL_RECEIVE_BUFFER = 4096  # so that a client cannot pour a whole message into the kernel's buffers
TCP_ESTABLISHED = 1


class Gone(Exception):
    """The connection is over."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in place of one reply."""

    kind: str
    phase: str
    local_part: str = ""
    argument: str = ""

    def seconds(self, default: float) -> float:
        return float(self.argument) if self.argument else default


@dataclass
class Behaviour:
    """How the exchange at one address acts."""

    text: str
    faults: list[Fault] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)
    while_path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Behaviour":
        behaviour = cls(text)
        for word in filter(None, text.split(";")):
            behaviour._add(word)
        return behaviour

    def _add(self, word: str) -> None:
        name, _, argument = word.partition("=")
        kind, at, place = name.partition("@")
        if at:
            phase, _, local_part = place.partition("/")
            if kind not in FAULTS or phase not in PHASES:
                raise ValueError(f"unknown fault: {word}")
            self.faults.append(Fault(kind, phase, local_part, argument))
        elif name == "while":
            self.while_path = argument
        elif name in LIMITS:
            self.limits[name] = int(argument)
        elif name in WORDS:
            self.words.add(name)
        else:
            raise ValueError(f"unknown behaviour: {word}")

    def fault_at(self, phase: str, connection: int, local_part: str = "") -> Fault | None:
        """The fault due at this phase of the address's connection number `connection`, counted from 1."""
        if self.while_path and not os.path.exists(self.while_path):
            return None
        if "first" in self.limits and connection > self.limits["first"]:
            return None
        for fault in self.faults:
            if fault.phase == phase and fault.local_part in ("", local_part):
                return fault
        return None

    def offers(self, extension: str) -> bool:
        return f"no-{extension}" not in self.words

    def fails_in_the_body(self) -> bool:
        return any(fault.phase == "BODY" for fault in self.faults)

    def receive_buffer(self) -> int:
        """One that sips leaves little of the content in its own kernel, for there the client takes it for read."""
        return 65536 if any(fault.kind == "sip" for fault in self.faults) else SMALL_RECEIVE_BUFFER


class Journal:
    """The two logs and the stored messages of one process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.events = open(os.path.join(folder, "events.jsonl"), "w", buffering=1, encoding="utf-8")
        self.accepted = open(os.path.join(folder, "accepted.jsonl"), "w", buffering=1, encoding="utf-8")
        self.messages = 0
        self.seen: set[tuple[str, str]] = set()

    def event(self, session: "Session", name: str, **more: Any) -> None:
        line = {"t": time.monotonic(), "at": session.endpoint.name, "connection": session.number, "event": name}
        self.events.write(json.dumps({**line, **more}) + "\n")

    def take(self, session: "Session", content: bytes) -> None:
        """Stores a message and its envelope: called before the 250, as durability would have it."""
        self.messages += 1
        name = f"{self.messages}.eml"
        with open(os.path.join(self.folder, name), "wb") as out:
            out.write(content)
        recipients = [recipient for recipient, _ in session.recipients]
        identity = message_id(content)
        again = [r for r in recipients if (identity, r) in self.seen]
        self.seen.update((identity, r) for r in recipients)
        record = {"t": time.monotonic(), "at": session.endpoint.name, "connection": session.number,
                  "message_id": identity, "sender": session.sender, "mail_parameters": session.mail_parameters,
                  "recipients": recipients,
                  "rcpt_parameters": [parameters for _, parameters in session.recipients], "helo": session.helo,
                  "tls": session.tls, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
                  "file": name, "duplicate_for": again}
        self.accepted.write(json.dumps(record) + "\n")


def message_id(content: bytes) -> str:
    """The Message-ID field's value, or the content's checksum where there is none."""
    head = content.split(b"\r\n\r\n", 1)[0]
    found = re.search(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?(\S+)", head, re.IGNORECASE | re.MULTILINE)
    return found.group(1).decode("latin-1") if found else hashlib.sha256(content).hexdigest()


@dataclass
class Endpoint:
    """One listening address."""

    host: str
    port: int
    behaviour: Behaviour
    connections: int = 0

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


class Session:
    """One connection, from the greeting to its end."""

    def __init__(self, endpoint: Endpoint, journal: Journal, tls_context: ssl.SSLContext | None,
                 reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoint.connections += 1
        self.endpoint = endpoint
        self.number = endpoint.connections
        self.behaviour = endpoint.behaviour
        self.journal = journal
        self.tls_context = tls_context
        self.reader = reader
        self.writer = writer
        # asyncio's own setting of it misses sockets that were made without naming the protocol.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.received = 0
        self.sent = 0
        self.messages = 0
        self.helo = ""
        self.extended = False
        self.tls = ""
        self.reset_transaction()

    def reset_transaction(self) -> None:
        self.sender: str | None = None
        self.mail_parameters: list[str] = []
        self.recipients: list[tuple[str, list[str]]] = []
        self.chunks = bytearray()
        self.chunking = False

    def note(self, event: str, **more: Any) -> None:
        self.journal.event(self, event, **more)

    def violation(self, what: str) -> None:
        """The client broke the protocol: tests fail on any of these."""
        self.note("violation", what=what)

    # ---- bytes ----

    async def fill(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise Gone("closed by the client")
        self.received += len(data)
        self.buffer += data

    async def read_line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > LINE_MAX:
                self.violation("command line too long")
                raise Gone("line too long")
            await self.fill()
        line = bytes(self.buffer[:end + 1])
        del self.buffer[:end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self.violation(f"bad line end: {line!r}")
        return line.rstrip(b"\r\n")

    async def send(self, data: bytes) -> None:
        self.sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def drain_until_gone(self, limit: float | None = None) -> None:
        """Reads and drops until the client leaves or `limit` seconds have passed."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    await self.fill()
                    self.buffer.clear()
        except TimeoutError:
            return

    async def stop_reading(self) -> None:
        """Leaves everything in the kernel until the client has gone, which only the socket's state tells."""
        self.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sock = self.writer.get_extra_info("socket")
        while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED:
            await asyncio.sleep(0.05)
        raise Gone("closed by the client while not reading")

    def abort(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # ---- replies and faults ----

    async def answer(self, phase: str, reply: str, local_part: str = "") -> bool:
        """Sends the phase's reply, or what its fault makes of it. True: `reply` itself was given."""
        fault = self.behaviour.fault_at(phase, self.number, local_part)
        wire = reply.encode() + b"\r\n"
        if fault is None:
            await self.send(wire)
            return True
        self.note("fault", phase=phase, kind=fault.kind)
        return await self.misbehave(fault, wire)

    async def misbehave(self, fault: Fault, wire: bytes) -> bool:
        match fault.kind:
            case "silent":
                await self.drain_until_gone(float(fault.argument) if fault.argument else None)
                raise Gone("silence is over")
            case "delay":
                await asyncio.sleep(fault.seconds(1))
                await self.send(wire)
                return True
            case "hold":
                while os.path.exists(self.behaviour.while_path):
                    await asyncio.sleep(0.02)
                await self.send(wire)
                return True
            case "trickle":
                await self.trickle(wire[:3] + b"-" + b"x" * 400 + b"\r\n", fault.seconds(1))
            case "stutter":
                await self.stutter(wire, fault.argument or "0.05")
                return True
            case "garbage":
                await self.send(b"\x16\x03\x01\x00\xffSSH-2.0-exchange\r\n\x00\xfe" * 4)
                await self.drain_until_gone()
            case "flood":
                await self.flood(wire[:3])
            case "close":
                raise Gone("closing, as ordered")
            case "reset":
                self.abort()
                raise Gone("reset, as ordered")
            case "reply":
                await self.send(fault.argument.encode() + b"\r\n")
                if fault.argument.startswith("421"):
                    raise Gone("421, as ordered")
                return fault.argument[:3].encode() == wire[:3]
            case "inject":
                await self.send(wire + (fault.argument or "250 injected").encode() + b"\r\n")
                return True
            case "halt":
                await self.stop_reading()
            case _:
                raise Gone(f"{fault.kind} does not fit {fault.phase}")
        raise Gone("the fault is over")

    async def stutter(self, wire: bytes, argument: str) -> None:
        pause, _, count = argument.partition(",")
        slow = int(count) if count else len(wire)
        for at in range(len(wire[:slow])):
            await self.send(wire[at:at + 1])
            await asyncio.sleep(float(pause))
        await self.send(wire[slow:])

    async def trickle(self, wire: bytes, pause: float) -> None:
        while True:
            for at in range(len(wire)):
                await self.send(wire[at:at + 1])
                await asyncio.sleep(pause)

    async def flood(self, code: bytes) -> None:
        block = (code + b"-flood\r\n") * 1000
        while True:
            await self.send(block)
            await asyncio.sleep(0)

    # ---- the dialogue ----

    async def run(self) -> None:
        self.note("open", client=self.writer.get_extra_info("peername")[0])
        try:
            await self.greet()
            while True:
                await self.command(await self.read_line())
        except (Gone, ConnectionError, ssl.SSLError) as end:
            self.note("closed", why=str(end) or type(end).__name__, received=self.received, sent=self.sent)
        except asyncio.CancelledError:
            self.note("closed", why="the exchange is being stopped", received=self.received, sent=self.sent)
        finally:
            self.writer.close()

    async def greet(self) -> None:
        # A client must not talk before the greeting (RFC 5321 3.1); what is here by now is too early.
        await asyncio.sleep(0)
        if self.reader._buffer:  # type: ignore[attr-defined]
            self.violation("talked before the greeting")
        if not await self.answer("GREETING", f"220 {self.endpoint.name} ESMTP test exchange"):
            await self.drain_until_gone()

    async def command(self, line: bytes) -> None:
        text = line.decode("utf-8", "surrogateescape")
        verb, _, rest = text.partition(" ")
        verb = verb.upper()
        self.note("command", line=text.encode("utf-8", "replace").decode())
        if self.buffer and not self.behaviour.offers("pipelining") and verb != "BDAT":
            self.violation(f"pipelined behind {verb} without PIPELINING")
        handlers = {"EHLO": self.on_ehlo, "HELO": self.on_helo, "STARTTLS": self.on_starttls, "MAIL": self.on_mail,
                    "RCPT": self.on_rcpt, "DATA": self.on_data, "BDAT": self.on_bdat, "RSET": self.on_rset,
                    "NOOP": self.on_noop, "QUIT": self.on_quit}
        handler = handlers.get(verb)
        if handler is None:
            self.violation(f"unknown command {verb}")
            await self.send(b"500 5.5.1 Unknown command\r\n")
        else:
            await handler(rest)

    async def on_ehlo(self, name: str) -> None:
        if "no-ehlo" in self.behaviour.words:
            await self.send(b"502 5.5.1 What is EHLO?\r\n")
            return
        self.reset_transaction()
        if await self.answer("EHLO", self.ehlo_reply()):
            self.helo, self.extended = name, True

    def ehlo_reply(self) -> str:
        size = self.behaviour.limits.get("size", 50_000_000)
        lines = [f"{self.endpoint.host} at your service"]
        words = {"pipelining": "PIPELINING", "8bitmime": "8BITMIME", "smtputf8": "SMTPUTF8", "dsn": "DSN",
                 "chunking": "CHUNKING", "size": f"SIZE {size}", "enhanced": "ENHANCEDSTATUSCODES"}
        lines += [word for name, word in words.items() if self.behaviour.offers(name)]
        if "starttls" in self.behaviour.words and not self.tls:
            lines.append("STARTTLS")
        return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])

    async def on_helo(self, name: str) -> None:
        self.reset_transaction()
        if await self.answer("HELO", f"250 {self.endpoint.host}"):
            self.helo, self.extended = name, False

    async def on_starttls(self, _: str) -> None:
        if "starttls" not in self.behaviour.words or self.tls or self.tls_context is None:
            self.violation("STARTTLS was not offered")
            await self.send(b"503 5.5.1 Not offered\r\n")
            return
        if self.buffer:
            self.violation("talked behind STARTTLS before its reply (RFC 3207)")
        if not await self.answer("STARTTLS", "220 2.0.0 Go ahead"):
            return
        fault = self.behaviour.fault_at("TLS", self.number)
        if fault is not None:
            self.note("fault", phase="TLS", kind=fault.kind)
            await self.misbehave(fault, b"")
        await self.writer.start_tls(self.tls_context)
        self.tls = self.writer.get_extra_info("ssl_object").version()
        if "corked" in self.behaviour.words:
            self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.helo, self.extended = "", False  # RFC 3207 4.2: all is forgotten
        self.buffer.clear()
        self.note("tls", version=self.tls)

    async def on_mail(self, rest: str) -> None:
        path, parameters = split_path(rest, "FROM:")
        if path is None or not self.helo or self.sender is not None:
            self.violation(f"bad MAIL: {rest!r}")
            await self.send(b"503 5.5.1 Bad MAIL\r\n")
            return
        self.check_parameters(parameters)
        if not path.isascii() and "SMTPUTF8" not in parameters:
            self.violation("internationalized sender without SMTPUTF8")
        if "tls-only" in self.behaviour.words and not self.tls:
            await self.send(b"530 5.7.0 Must issue a STARTTLS command first\r\n")
            return
        if self.messages >= self.behaviour.limits.get("mail-max", 1 << 30):
            await self.send(b"421 4.4.5 Enough messages on this connection\r\n")
            raise Gone("mail-max reached")
        if await self.answer("MAIL", "250 2.1.0 Sender ok"):
            self.sender, self.mail_parameters = path, parameters

    def check_parameters(self, parameters: list[str]) -> None:
        """Each parameter of MAIL needs its extension to have been offered."""
        needs = {"SIZE": "size", "BODY": "8bitmime", "SMTPUTF8": "smtputf8", "RET": "dsn", "ENVID": "dsn"}
        for parameter in parameters:
            word = parameter.partition("=")[0].upper()
            if word not in needs or not self.extended or not self.behaviour.offers(needs[word]):
                self.violation(f"MAIL parameter {parameter} was not offered")

    async def on_rcpt(self, rest: str) -> None:
        path, parameters = split_path(rest, "TO:")
        if path is None:
            self.violation(f"bad RCPT: {rest!r}")
            await self.send(b"501 5.5.4 Bad RCPT\r\n")
            return
        if parameters and not self.behaviour.offers("dsn"):
            self.violation(f"RCPT parameters {parameters} without DSN")
        if not path.isascii() and "SMTPUTF8" not in self.mail_parameters and self.sender is not None:
            self.violation("internationalized recipient without SMTPUTF8")
        if self.sender is None:  # its MAIL was refused; a pipelining client could not know (RFC 2920)
            await self.send(b"503 5.5.1 MAIL first\r\n")
            return
        if len(self.recipients) >= self.behaviour.limits.get("rcpt-max", 1 << 30):
            await self.send(b"452 4.5.3 Too many recipients\r\n")
            return
        if await self.answer("RCPT", "250 2.1.5 Recipient ok", path.rpartition("@")[0]):
            self.recipients.append((path, parameters))

    async def on_data(self, _: str) -> None:
        if not self.recipients:
            await self.send(b"554 5.5.1 No valid recipients\r\n")
            return
        if self.buffer:
            self.violation("talked behind DATA before its reply")
        if await self.answer("DATA", "354 Go on"):
            await self.finish(unstuff(await self.read_body()))

    async def read_body(self) -> bytes:
        fault = self.behaviour.fault_at("BODY", self.number)
        pace = float("inf")
        if fault is not None:
            await self.fill()
            self.note("fault", phase="BODY", kind=fault.kind)
        if fault is not None and fault.kind == "sip":
            pace = fault.seconds(100000)
        elif fault is not None:
            await self.misbehave(fault, b"")
            if fault.kind == "reply":
                raise Gone("the content is given up, as ordered")
        searched = 0
        while True:
            if self.buffer.startswith(b".\r\n"):
                end = 0
            else:
                end = self.buffer.find(b"\r\n.\r\n", searched) + 2
            if end != 1:
                body = bytes(self.buffer[:end])
                del self.buffer[:end + 3]
                return body
            searched = max(0, len(self.buffer) - 4)
            before = self.received
            await self.fill()
            await asyncio.sleep((self.received - before) / pace)

    async def on_bdat(self, rest: str) -> None:
        words = rest.split()
        if not words or not words[0].isdigit() or not self.behaviour.offers("chunking"):
            self.violation(f"bad BDAT: {rest!r}")
            raise Gone("cannot tell where a bad BDAT ends")
        want = int(words[0])
        while len(self.buffer) < want:
            await self.fill()
        self.chunks += self.buffer[:want]
        del self.buffer[:want]
        if not self.recipients:
            await self.send(b"503 5.5.1 No valid recipients\r\n")
        elif len(words) > 1:
            await self.finish(bytes(self.chunks))
        else:
            await self.send(b"250 2.0.0 Chunk taken\r\n")

    async def finish(self, content: bytes) -> None:
        """The message is complete: verifies it, takes it, answers."""
        self.check_content(content)
        self.note("body", bytes=len(content))
        fault = self.behaviour.fault_at("DOT", self.number)
        if fault is None or fault.kind in ("delay", "hold", "stutter", "lose"):
            self.journal.take(self, content)
            self.messages += 1
        if fault is not None and fault.kind == "lose":
            self.note("fault", phase="DOT", kind="lose")
            await self.drain_until_gone(fault.seconds(0.01))
            raise Gone("lost behind the final dot, as ordered")
        await self.answer("DOT", "250 2.0.0 Taken")
        self.reset_transaction()

    def check_content(self, content: bytes) -> None:
        """RFC 5321 2.3.8, 4.5.3.1.6 and 6152: what no honest client sends."""
        if content and not content.endswith(b"\r\n"):
            self.violation("content does not end in CRLF")
        bare = content.replace(b"\r\n", b"")
        if b"\r" in bare or b"\n" in bare:
            self.violation("bare CR or LF in content")
        if any(len(line) > 998 for line in content.split(b"\r\n")):
            self.violation("line over 998 octets")
        eight_bit = any("8BITMIME" in p.upper() for p in self.mail_parameters)
        if not eight_bit and not content.isascii():
            self.violation("8-bit content without BODY=8BITMIME")
        if self.behaviour.offers("size") and len(content) > self.behaviour.limits.get("size", 50_000_000):
            self.violation("content over the SIZE offered")

    async def on_rset(self, _: str) -> None:
        self.reset_transaction()
        await self.answer("RSET", "250 2.0.0 Ok")

    async def on_noop(self, _: str) -> None:
        await self.send(b"250 2.0.0 Ok\r\n")

    async def on_quit(self, _: str) -> None:
        await self.answer("QUIT", "221 2.0.0 Bye")
        raise Gone("QUIT")


def split_path(rest: str, keyword: str) -> tuple[str | None, list[str]]:
    """'FROM:<a@b> SIZE=1' -> ('a@b', ['SIZE=1']); None where it is not of that form."""
    found = re.fullmatch(rf"{keyword}<([^>]*)>((?: \S+)*)", rest, re.IGNORECASE)
    return (found.group(1), found.group(2).split()) if found else (None, [])


def unstuff(body: bytes) -> bytes:
    """Takes away the dot that RFC 5321 4.5.2 puts in front of a line that begins with one."""
    if body.startswith(b"."):
        body = body[1:]
    return body.replace(b"\r\n.", b"\r\n")


# ---- listening ----


def listen(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if endpoint.behaviour.fails_in_the_body():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, endpoint.behaviour.receive_buffer())
    sock.bind((endpoint.host, endpoint.port))
    sock.listen(0 if "backlog" in endpoint.behaviour.words else 1024)
    sock.setblocking(False)
    return sock


def fill_backlog(endpoint: Endpoint, sockets: list[socket.socket]) -> None:
    """Connects until the kernel answers no more SYNs: from then on a client's SYN goes unanswered."""
    for _ in range(4):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((endpoint.host, endpoint.port))
        sockets.append(sock)
    time.sleep(0.1)


async def serve(endpoints: list[Endpoint], journal: Journal, tls_context: ssl.SSLContext | None) -> None:
    kept: list[socket.socket] = []
    tasks: set[asyncio.Task[None]] = set()
    for endpoint in endpoints:
        sock = listen(endpoint)
        if "backlog" in endpoint.behaviour.words:
            fill_backlog(endpoint, kept)
            kept.append(sock)
            continue

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                                at: Endpoint = endpoint) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await Session(at, journal, tls_context, reader, writer).run()

        await asyncio.start_server(on_connection, sock=sock)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print("ready", flush=True)
    await stop.wait()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def parse_endpoint(text: str) -> Endpoint:
    where, _, behaviour = text.partition("/")
    host, _, port = where.rpartition(":")
    return Endpoint(host.strip("[]"), int(port), Behaviour.parse(behaviour or "good"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where logs and messages go")
    parser.add_argument("--cert", help="certificate (PEM) for STARTTLS")
    parser.add_argument("--key", help="its private key (PEM)")
    parser.add_argument("endpoints", nargs="+", type=parse_endpoint, metavar="ADDRESS:PORT/BEHAVIOUR")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    context = None
    if arguments.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.cert, arguments.key)
    asyncio.run(serve(arguments.endpoints, Journal(arguments.folder), context))
    return 0


if __name__ == "__main__":
    sys.exit(main())
