"""Clients and senders that mean harm: by their number, by floods, and by names made to break a log, a notice or an answer."""

from __future__ import annotations

import email
import email.policy
import json
import resource
import selectors
import socket
import time
from typing import Iterator

from harness import E2ETest, ORIGIN, Relay, SANITIZED, WAIT_LIMIT, World, main, message, wait_until

SENDER = f"sender@postbox.{ORIGIN}"
SLOW_CLIENTS = 1000 if SANITIZED else 10000
KB_A_CLIENT = 8  # of the relay's resident memory; the kernel's part is its own

# Local parts as RFC 5321 4.1.2 and RFC 6531 3.3 allow them, each made to end something early somewhere.
LOCAL_PARTS = ['"quote\\"in"', '"back\\\\slash"', '"a b,c;d:e"', "'--drop", "%s%n", '"${jndi:x}"', "{}", "+2B=3D",
               "--=_onward_0", '"\\"}"', "x" * 64]
UTF8_LOCAL_PARTS = ["\u202etxt.exe", "a\u2028b", "\u0085c", "na\u00efve", "\U0001f4a9"]


class ManyClients(E2ETest):
    limit_s = 150

    def test_ten_thousand_slow_clients_leave_the_others_served(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreater(hard, SLOW_CLIENTS + 100, "this machine's limit of descriptors is too low: raise ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        limit = SLOW_CLIENTS + 100
        world = self.world(submission={"connections_max": limit, "connections_per_client_max": limit},
                           delivery={"connections_max": 100})
        domain, _ = world.domain("one", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "before")
        world.wait_accepted("before")
        before = relay.resident_kb()
        clients = [self.slow_client(relay) for _ in range(SLOW_CLIENTS)]
        self.wait_greeted(clients)
        for step in (b"EH", b"LO slow.example\r", b"\nMA", b"IL FROM:<a@b.ex"):
            for client in clients:
                client.sendall(step)
            began = time.monotonic()
            name = f"among-{step[:2].hex()}"
            relay.send(SENDER, [f"r@{domain}"], name)
            world.wait_accepted(name)
            # Long before the first of them is ended (submission.command_timeout), were they in the way.
            self.assertLess(time.monotonic() - began, WAIT_LIMIT)
        if not SANITIZED:
            self.assertLess((relay.resident_kb() - before) / SLOW_CLIENTS, KB_A_CLIENT)
        status = relay.json("status")[0]
        self.assertGreaterEqual(status["workers"]["submissions_open"], SLOW_CLIENTS)

    def slow_client(self, relay: Relay) -> socket.socket:
        client = relay.socket()
        self.addCleanup(client.close)
        return client

    def wait_greeted(self, clients: list[socket.socket]) -> None:
        waiting = len(clients)
        with selectors.DefaultSelector() as selector:
            for client in clients:
                selector.register(client, selectors.EVENT_READ)
            while waiting > 0:
                ready = selector.select(WAIT_LIMIT)
                self.assertNotEqual(ready, [], f"{waiting} clients were not greeted")
                for key, _ in ready:
                    assert isinstance(key.fileobj, socket.socket)
                    self.assertTrue(key.fileobj.recv(512).startswith(b"220 "))
                    selector.unregister(key.fileobj)
                    waiting -= 1

    def test_a_flood_of_recipients_is_bounded(self) -> None:
        world = self.world(submission={"recipients_max": 100})
        domain, _ = world.domain("one", "good")
        relay = world.start()
        before = relay.resident_kb()
        count = 50_000
        with relay.socket() as sock:
            sock.settimeout(WAIT_LIMIT)
            sock.sendall(f"EHLO c\r\nMAIL FROM:<{SENDER}>\r\n".encode())
            answer, sent = b"", 0
            block = b"".join(b"RCPT TO:<r%d@%b>\r\n" % (n, domain.encode()) for n in range(500))
            while sent < count:
                sock.sendall(block)
                sent += 500
                while answer.count(b"\n") < sent:
                    answer += sock.recv(1 << 20)
            sock.sendall(b"RSET\r\nQUIT\r\n")
            while data := sock.recv(1 << 16):
                answer += data
        self.assertEqual(answer.count(b"250 2.1.5 "), 100)
        self.assertEqual(answer.count(b"452 4.5.3 "), count - 100)
        if not SANITIZED:
            self.assertLess(relay.resident_kb() - before, 4000)
        relay.send(SENDER, [f"r@{domain}"], "behind")
        world.wait_accepted("behind")

    def test_transactions_that_never_come_to_content_leave_nothing(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        group = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<r@{domain}>\r\nRSET\r\n".encode() * 200
        with relay.socket() as sock:
            sock.settimeout(WAIT_LIMIT)
            sock.sendall(b"EHLO c\r\n")
            for _ in range(50):
                sock.sendall(group)
                lines = 0
                while lines < 600:
                    lines += sock.recv(1 << 20).count(b"\n250 ") + 1
        self.assertEqual(relay.json("queue", "list"), [])
        relay.send(SENDER, [f"r@{domain}"], "behind")
        world.wait_accepted("behind")


class HostileNames(E2ETest):
    """Whatever an address, a HELO name or a header holds, a log line stays a line of JSON, a notice a notice."""

    limit_s = 60

    def names(self, domain: str) -> Iterator[tuple[str, list[str]]]:
        for local in LOCAL_PARTS:
            yield f"{local}@{domain}", []
        for local in UTF8_LOCAL_PARTS:
            yield f"{local}@{domain}", ["SMTPUTF8"]

    def test_addresses_break_no_log_no_notice_and_no_answer(self) -> None:
        world = self.world(retry={"first": "1h"})
        postbox = world.exchange("good")
        sender = f"sender@{world.mx('postbox', postbox)}"
        refused, _ = world.domain("no", "reply@RCPT=550 5.1.1 No \"such\" {user}\\")
        held, _ = world.domain("later", "reply@RCPT=450 4.2.1 Later")
        relay = world.start()
        addresses = []
        for domain in (refused, held):
            for address, options in self.names(domain):
                self.submit(relay, sender, address, options)
                addresses.append(address)
        count = len(addresses) // 2
        relay.wait_logged("deferred", count)
        wait_until(lambda: len(self.notices(world, postbox)) >= count, "a notice for each refused address")
        for line in relay.log_path.read_bytes().split(b"\n")[:-1]:
            self.assertIsInstance(json.loads(line), dict)
        wait_until(lambda: len(relay.json("queue", "list")) <= count, "what is settled to leave the queue", pause=0.05)
        listed = [entry["recipient"] for entry in relay.json("queue", "list")]
        self.assertEqual(sorted(listed), sorted(a for a in addresses if a.endswith(held)))
        self.assertEqual(len(relay.wait_logged("accepted", len(addresses), sender=sender)), len(addresses))
        told = [self.final_recipient(n) for n in self.notices(world, postbox)]
        self.assertEqual(sorted(told), sorted(a for a in addresses if a.endswith(refused)))

    def submit(self, relay: Relay, sender: str, address: str, options: list[str]) -> None:
        with relay.connect() as client:
            client.ehlo()
            client.command_encoding = "utf-8"
            self.assertEqual(client.mail(sender, options)[0], 250)
            self.assertEqual(client.docmd(f"RCPT TO:<{address}>")[0], 250, address)
            self.assertEqual(client.data(message("hostile"))[0], 250)

    def notices(self, world: object, postbox: str) -> list[bytes]:
        exchanges = world.exchanges  # type: ignore[attr-defined]
        return [exchanges.content(r) for r in exchanges.accepted(at=exchanges.at(postbox)) if r["sender"] == ""]

    def final_recipient(self, notice: bytes) -> str:
        parsed = email.message_from_bytes(notice, policy=email.policy.compat32)
        self.assertEqual(len(parsed.get_payload()), 3)
        head = notice.partition(b"\r\nFinal-Recipient: ")[2].partition(b"\r\n")[0].decode()
        self.assertEqual(notice.count(b"\r\nAction: "), 1)
        return head.partition("; ")[2]

    def test_a_helo_name_and_headers_forge_nothing(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        lines = (b'EHLO evil"\\(x)<y>\x0b\xff{"event":"forged"}\r\n'
                 + f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<r@{domain}>\r\nDATA\r\n".encode()
                 + b"Message-ID: <forge@x>\r\nX: \x1b[31m\"}\r\nSubject: =?utf-8?q?=0D=0AStatus:_2.0.0?=\r\n\r\nx\r\n.\r\nQUIT\r\n")
        with relay.socket() as sock:
            sock.sendall(lines)
            answer = b""
            while block := sock.recv(65536):
                answer += block
        self.assertIn(b"Queued as", answer)
        wait_until(lambda: world.exchanges.accepted(), "the message")
        received = world.exchanges.content(world.exchanges.accepted()[0]).partition(b"\r\n")[0]
        self.assertTrue(received.startswith(b"Received: from evil???x??y??"), received)
        self.assertEqual(relay.logged("forged"), [])
        for line in relay.log_path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)


class Floods(E2ETest):
    """An exchange that answers with a reply of megabytes that never ends, in each phase."""

    MEMORY_KB = 16 * 1024  # more than one reply's bound for each of the connections, less than any flood
    PATIENCE_S = 60
    FLOOD_BYTES = 32 << 20  # what the kernel's buffers took before the relay hung up; a reader would have taken gigabytes

    def flooded(self, phase: str) -> tuple[World, Relay, list[str]]:
        world = self.world(delivery={"patience_max": f"{self.PATIENCE_S}s"})
        self.domain, addresses = world.domain("one", f"flood@{phase}", "good")
        return world, world.start(), addresses

    def check_bounded(self, world: World, relay: Relay, before_kb: int, flooding: str) -> None:
        closed = wait_until(lambda: world.exchanges.events.where(event="closed", at=world.exchanges.at(flooding)), "a hang-up")
        self.assertLess(max(event["sent"] for event in closed), self.FLOOD_BYTES)
        self.assertLess(relay.resident_kb() - before_kb, self.MEMORY_KB)

    def test_a_flood_before_the_commit_sends_the_message_to_the_next_exchange_at_once(self) -> None:
        for phase in ("GREETING", "EHLO", "MAIL", "RCPT", "DATA"):
            with self.subTest(phase=phase):
                world, relay, (flooding, good) = self.flooded(phase)
                before_kb = relay.resident_kb()
                begin = time.monotonic()
                relay.send(SENDER, [f"r@{self.domain}"], "m")
                self.assertEqual(world.wait_accepted("m")[0]["at"], world.exchanges.at(good))
                self.assertLess(time.monotonic() - begin, self.PATIENCE_S / 2)  # at once, not when patience is over
                self.check_bounded(world, relay, before_kb, flooding)

    def test_a_flood_in_place_of_the_last_reply_leaves_the_outcome_unknown(self) -> None:
        world, relay, (flooding, _) = self.flooded("DOT")
        before_kb = relay.resident_kb()
        relay.send(SENDER, [f"r@{self.domain}"], "m")
        self.assertLess(relay.wait_logged("unknown")[0]["transaction_ms"], self.PATIENCE_S * 1000)
        self.assertEqual(world.exchanges.accepted("m"), [])  # no second copy anywhere
        self.check_bounded(world, relay, before_kb, flooding)


if __name__ == "__main__":
    main()
