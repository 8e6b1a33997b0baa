"""The bench's own tools: what they say of a relay is only worth what they see themselves."""

from __future__ import annotations

import pathlib
import socket
import ssl
import subprocess
import sys

from harness import E2ETest, Ports, main

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))

from suite.load import Load, Mail  # noqa: E402  (its folder was just put on the path)
from suite.measure import certificate  # noqa: E402
from suite.sinks import Sink  # noqa: E402
from suite.surroundings import TOOLS  # noqa: E402

LIMIT_S = 60.0
BODY = b".first\r\n..second\r\n.\r\nlast\r\n"
BODY_XXH3 = "620349662b3d1f17"  # by the library's own xxhsum
HEAD = f"Subject: x\r\nX-Id: a1\r\nX-Mark: 1 {len(BODY)} {BODY_XXH3}\r\n\r\n".encode()
BEGIN = b"EHLO c\r\nMAIL FROM:<s@x>\r\nRCPT TO:<r@x>\r\n"


class Tools(E2ETest):
    def sink(self, *more: str) -> tuple[Sink, tuple[str, int]]:
        port = Ports.take()
        sink = Sink(port, hung=["127.2.0.0/16"], more=more)
        self.addCleanup(sink.stop)
        return sink, ("127.3.0.1", port)

    def talk(self, to: tuple[str, int], data: bytes, step: int = 0) -> None:
        """Sends all, `step` bytes at a time where given, and waits for the end of the connection."""
        with socket.create_connection(to, LIMIT_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data), step or len(data)):
                sock.sendall(data[at:at + (step or len(data))])
            while sock.recv(4096):
                continue

    def verdict(self, sink: Sink) -> tuple[int, int, int, int]:
        found = sink.group("a")
        return found["messages"], found["verified"], found["damaged"], found["duplicates"]

    def test_every_message_of_the_generator_arrives_verified_and_a_second_copy_is_seen(self) -> None:
        sink, to = self.sink("--threads", "2")
        mail = Mail(size=5000, domains=7, recipients=3, submitters=9)
        found = Load(mail, 500, to=to, threads=2, per_connection=20).finish(LIMIT_S)
        self.assertEqual((found["accepted"], found["refused"], found["lost_connections"]), (500, 0, 0))
        self.assertEqual((self.verdict(sink), sink.group("a")["distinct"]), ((500, 500, 0, 0), 1500))
        Load(mail, 1, to=to).finish(LIMIT_S)
        self.assertEqual(self.verdict(sink), (501, 501, 0, 3))

    def test_dots_are_unstuffed_wherever_the_bytes_are_cut(self) -> None:
        sink, to = self.sink()
        stuffed = BODY.replace(b"\r\n.", b"\r\n..").replace(b".first", b"..first", 1)
        dialogue = BEGIN + b"DATA\r\n" + HEAD + stuffed + b".\r\nQUIT\r\n"
        for step in (0, 1, 2, 3, 5):
            self.talk(to, dialogue, step)
        self.assertEqual(self.verdict(sink), (5, 5, 0, 4))

    def test_chunks_are_put_together_and_their_dots_left_alone(self) -> None:
        sink, to = self.sink("--chunking")
        content = HEAD + BODY
        first, last = content[:50], content[50:]
        dialogue = b"%sBDAT %d\r\n%sBDAT %d LAST\r\n%sQUIT\r\n" % (BEGIN, len(first), first, len(last), last)
        for step in (0, 1, 7):
            self.talk(to, dialogue, step)
        self.assertEqual(self.verdict(sink), (3, 3, 0, 2))

    def test_a_body_that_is_not_the_one_submitted_counts_as_damaged(self) -> None:
        sink, to = self.sink()
        self.talk(to, BEGIN + b"DATA\r\n" + HEAD + b"other\r\n.\r\nQUIT\r\n")
        self.assertEqual(self.verdict(sink), (1, 0, 1, 0))

    def test_starttls_is_spoken(self) -> None:
        folder = self.world().folder
        sink, to = self.sink("--chunking", *certificate(folder))
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        context.check_hostname = False
        with socket.create_connection(to, LIMIT_S) as plain:
            plain.sendall(b"EHLO c\r\nSTARTTLS\r\n")
            while b"220 2.0.0" not in plain.recv(4096):
                continue
            with context.wrap_socket(plain) as sock:
                content = HEAD + BODY
                sock.sendall(b"%sBDAT %d LAST\r\n%sQUIT\r\n" % (BEGIN, len(content), content))
                while sock.recv(4096):
                    continue
        self.assertEqual(self.verdict(sink), (1, 1, 0, 0))

    def test_a_hung_prefix_stays_silent_and_the_proxy_adds_a_round_trip(self) -> None:
        sink, to = self.sink()
        with socket.create_connection(("127.2.0.9", to[1]), LIMIT_S):
            Load(Mail(submitters=1), 1, to=to).finish(LIMIT_S)
            self.assertEqual(sink.prefix("127.2.0.0/16")["hung_open"], 1)
        near = ("127.0.0.1", Ports.take())
        proxy = subprocess.Popen([TOOLS / "delay", "--listen", f"{near[0]}:{near[1]}", "--to", f"{to[0]}:{to[1]}", "--one-way-ms", "20"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert proxy.stdin is not None and proxy.stdout is not None
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.stdout.close)
        self.addCleanup(proxy.stdin.close)
        proxy.stdout.readline()
        found = Load(Mail(submitters=1), 3, to=near).finish(LIMIT_S)
        self.assertGreaterEqual(found["latency"]["points"][0][1], 2 * 40_000 * 0.97)  # the histogram's steps are 3 %


if __name__ == "__main__":
    main()
