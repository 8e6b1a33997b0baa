"""A restart behind a load balancer: many submitters at work, SIGTERM, the next process on the same spool at once. No
submitter sees anything but replies, a 421 with a clean end, or a refused connection; what got a 250 is delivered once, and
nothing else is."""

from __future__ import annotations

import collections
import itertools
import signal
import threading
import time
from typing import Callable, Iterator

from harness import E2ETest, ORIGIN, Relay, SANITIZED, main, message, wait_until

SENDER = f"sender@postbox.{ORIGIN}"
SUBMITTERS = 12 if SANITIZED else 30
RESTARTS = 3
PIPELINED = 4  # messages in one write
RETRY_S = 0.02  # behind a refused connection or a 421


class Goodbye(Exception):
    """The relay said 421."""


class Submitter:
    """One client that submits without end, a message or several at a time, and keeps the books."""

    def __init__(self, relay: Relay, number: int, recipient: str, stop: threading.Event) -> None:
        self.relay, self.recipient, self.stop = relay, recipient, stop
        self.names: Iterator[str] = (f"s{number}-{n}" for n in itertools.count())
        self.talk: Callable[[], None] = [self.one_by_one, self.pipelined, self.slowly][number % 3]
        self.accepted: list[str] = []
        self.goodbyes = self.refused = 0
        self.failures: list[str] = []
        self.rest = b""
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.is_set() and not self.failures:
            try:
                with self.relay.socket() as self.sock:
                    self.rest = b""
                    self.greet()
                    self.talk()
            except ConnectionRefusedError:
                self.refused += 1
                time.sleep(RETRY_S)
            except Goodbye:
                self.goodbyes += 1
                time.sleep(RETRY_S)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the test tells it
                self.failures.append(repr(failure))

    # ---- the dialogue ----

    def line(self) -> bytes:
        while b"\n" not in self.rest:
            block = self.sock.recv(65536)
            if not block:
                raise AssertionError(f"closed without a word (had {self.rest!r})")
            self.rest += block
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def reply(self, expected: int) -> None:
        line = self.line()
        while line[3:4] == b"-":
            line = self.line()
        if line.startswith(b"421 "):
            self.read_end()
            raise Goodbye
        if int(line[:3]) != expected:
            raise AssertionError(f"expected {expected}: {line!r}")

    def read_end(self) -> None:
        """Behind a 421 there may be more of them, for what was pipelined, and then a clean end."""
        data = self.rest
        while block := self.sock.recv(65536):
            data += block
        if not all(line.startswith(b"421 ") for line in data.splitlines()):
            raise AssertionError(f"behind a 421: {data!r}")

    def say(self, text: str, expected: int) -> None:
        self.sock.sendall(text.encode() + b"\r\n")
        self.reply(expected)

    def greet(self) -> None:
        self.reply(220)
        self.say("EHLO client.example.org", 250)

    def up_to_data(self) -> None:
        self.say(f"MAIL FROM:<{SENDER}>", 250)
        self.say(f"RCPT TO:<{self.recipient}>", 250)
        self.say("DATA", 354)

    def one_by_one(self) -> None:
        for _ in range(5):
            name = next(self.names)
            self.up_to_data()
            self.sock.sendall(message(name) + b".\r\n")
            self.reply(250)
            self.accepted.append(name)
        self.say("QUIT", 221)

    def slowly(self) -> None:
        name = next(self.names)
        self.up_to_data()
        content = message(name, "A line of text.\r\n" * 20) + b".\r\n"
        for at in range(0, len(content), 64):
            self.sock.sendall(content[at:at + 64])
            time.sleep(0.02)
        self.reply(250)
        self.accepted.append(name)

    def pipelined(self) -> None:
        for _ in range(10):
            names = [next(self.names) for _ in range(PIPELINED)]
            group = b""
            for name in names:
                content = message(name)
                group += (f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{self.recipient}>\r\n"
                          f"BDAT {len(content)} LAST\r\n").encode() + content
            self.sock.sendall(group)
            for name in names:
                for _ in range(3):
                    self.reply(250)
                self.accepted.append(name)


class RestartUnderLoad(E2ETest):
    limit_s = 120

    def test_submitters_see_a_clean_end_and_nothing_is_lost_or_doubled(self) -> None:
        world = self.world(drain_timeout="1m")
        domain, _ = world.domain("one", "good")
        relay = world.start()
        stop = threading.Event()
        submitters = [Submitter(relay, number, f"r@{domain}", stop) for number in range(SUBMITTERS)]
        self.addCleanup(stop.set)
        for submitter in submitters:
            submitter.thread.start()
        for number in range(RESTARTS):
            before = sum(len(s.accepted) for s in submitters)
            wait_until(lambda: sum(len(s.accepted) for s in submitters) > before + 100 or any(s.failures for s in submitters),
                       f"load before restart {number}")
            self.replace(relay)
        stop.set()
        for submitter in submitters:
            submitter.thread.join()
        self.assertEqual([f for s in submitters for f in s.failures], [])
        self.assertGreater(sum(s.goodbyes for s in submitters), 0)
        accepted = {name for s in submitters for name in s.accepted}
        relay.wait_drained(150)
        delivered = collections.Counter(record["message_id"] for record in world.exchanges.accepted())
        names = collections.Counter({name.strip("<>").partition("@")[0]: count for name, count in delivered.items()})
        self.assertEqual(accepted - set(names), set(), "lost")
        self.assertEqual(set(names) - accepted, set(), "delivered, but never answered with 250")
        self.assertEqual([name for name, count in names.items() if count > 1], [], "delivered twice")

    def replace(self, relay: Relay) -> None:
        """The next process is started before the last one is gone."""
        old = relay.process
        assert old is not None
        old.signal(signal.SIGTERM)
        relay.start()
        self.assertEqual(old.wait(), 0, old.stderr())

    def test_a_content_that_does_not_end_is_told_421_at_the_drains_limit(self) -> None:
        world = self.world(drain_timeout="1s")
        domain, _ = world.domain("one", "good")
        relay = world.start()
        with relay.socket() as sock:
            sock.sendall(f"EHLO c\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<r@{domain}>\r\nDATA\r\n".encode())
            data = b""
            while b"354 " not in data:
                data += sock.recv(65536)
            sock.sendall(b"Subject: x\r\n\r\nand no end")
            assert relay.process is not None
            relay.process.signal(signal.SIGTERM)
            end = b""
            while block := sock.recv(65536):
                end += block
        self.assertRegex(end, rb"^421 4\.3\.2 [^\r\n]*\r\n$")
        relay.terminate()
        relay.start()
        self.assertEqual(relay.json("queue", "list"), [])

    def test_a_new_caller_is_refused_at_once(self) -> None:
        """Not left without a word in the backlog of a socket that nobody accepts from."""
        world = self.world(drain_timeout="10m")
        domain, _ = world.domain("one", "silent@DOT")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        wait_until(lambda: world.exchanges.events.where(event="body"), "the body to be sent")
        process = relay.process
        assert process is not None
        process.signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                with relay.socket() as sock:
                    self.assertRegex(sock.recv(512), rb"^(220|421) ")
                    return False
            except ConnectionRefusedError:
                return True
        wait_until(refused, "refused connections, long before the drain's end")
        self.assertTrue(process.running())
        process.signal(signal.SIGTERM)
        relay.terminate()


if __name__ == "__main__":
    main()
