"""Two relays behind a real load balancer (HAProxy, tests/balancer/haproxy.cfg), and senders that note all they see.

`tests/balancer/run` uses it for long runs, test_balancer.py for a short one.
"""

from __future__ import annotations

import collections
import http.client
import json
import pathlib
import smtplib
import socket
import threading
from typing import Iterable

from harness import ORIGIN, ROOT, WAIT_LIMIT, Ports, Process, Relay, World, message, tool, wait_until

CONFIGURATION = ROOT / "tests/balancer/haproxy.cfg"
SENDERS_NET = "127.77.0.0/16"
TOKEN = "0123456789abcdef0123456789abcdef"
MESSAGES_PER_SESSION = 25
REPLY_LIMIT_S = 60.0  # a sender that hears nothing for so long is being held up


class HAProxy:
    """HAProxy in front of the relays, with the configuration that users are given."""

    def __init__(self, folder: pathlib.Path, relays: list["BalancedRelay"]) -> None:
        self.address = ("127.0.0.1", Ports.take())
        self.http_address = ("127.0.0.1", Ports.take())
        self.stats = folder / "haproxy.sock"
        text = CONFIGURATION.read_text()
        values = {"STATS_SOCKET": self.stats, "SMTP_ADDRESS": f"127.0.0.1:{self.address[1]}",
                  "HTTP_ADDRESS": f"127.0.0.1:{self.http_address[1]}"}
        for number, relay in enumerate(relays, 1):
            values[f"RELAY{number}_SMTP"] = f"127.0.0.1:{relay.port}"
            values[f"RELAY{number}_HTTP"] = f"127.0.0.1:{relay.http_port}"
            values[f"RELAY{number}_HTTP_PORT"] = relay.http_port
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        path = folder / "haproxy.cfg"
        path.write_text(text)
        self.process = Process([tool("haproxy"), "-db", "-q", "-f", path], folder, "haproxy")

    def states(self) -> dict[str, str]:
        """What HAProxy thinks of each relay: UP, DOWN, or on the way ("UP 1/2")."""
        self.process.require_running()
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.stats))
            except OSError:
                return {}
            sock.sendall(b"show stat\n")
            data = b"".join(iter(lambda: sock.recv(65536), b""))
        head, *rows = [line.split(",") for line in data.decode().strip().splitlines()]
        column = head.index("status")
        return {row[1]: row[column] for row in rows if row[0] == "relays" and row[1].startswith("relay")}

    def wait_state(self, name: str, state: str) -> None:
        wait_until(lambda: self.states().get(name) == state, f"HAProxy to see {name} {state}")

    def stop(self) -> None:
        self.process.stop()


class BalancedRelay(Relay):
    """A relay that takes mail from the balancer alone."""

    def __init__(self, name: str, folder: pathlib.Path, config: dict) -> None:
        folder.mkdir()
        super().__init__(folder, config)
        self.name = name
        self.http_port = Ports.take()
        tokens = folder / "tokens"
        tokens.write_text(f"app inject {TOKEN}\n")
        tokens.chmod(0o600)
        self.write_config(hostname=f"{name}.{ORIGIN}",
                          submission={"listen": [{"address": f"127.0.0.1:{self.port}", "proxy_protocol": True}],
                                      "proxy_from": ["127.0.0.1"], "allow": [SENDERS_NET]},
                          http={"listen": [{"address": f"127.0.0.1:{self.http_port}"}], "token_file": str(tokens)})


class Sender(threading.Thread):
    """What both kinds of senders have: see SmtpSender and HttpSender."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        super().__init__(daemon=True)
        self.fleet = fleet
        self.source = f"127.77.{number >> 8}.{number & 255}"
        self.serial = 0
        self.accepted: list[str] = []
        self.seen: collections.Counter[str] = collections.Counter()
        self.rude: list[str] = []

    def recipient(self) -> str:
        return self.fleet.recipients[self.serial % len(self.fleet.recipients)]

    def name(self) -> str:
        """The mark of the message that is sent now, and again until it is accepted."""
        return f"{self.source}-{self.serial}"

    def note_accepted(self, reply: str) -> None:
        self.accepted.append(self.name())
        self.seen[reply] += 1
        self.serial += 1


class SmtpSender(Sender):
    """Submits marked messages one after the other from an address of its own, some in each session.

    `seen` counts what it met: "250"; "421 <where>", after which it connects again; "lost <where>", where the connection
    ended without a word. All else is in `rude`: another reply, or none at all for too long."""

    where = ""

    def run(self) -> None:
        while not self.fleet.done.is_set():
            try:
                self.where = "connect"
                with smtplib.SMTP(timeout=REPLY_LIMIT_S, source_address=(self.source, 0),
                                  local_hostname="sender.example") as client:
                    self.expect(client.connect(*self.fleet.balancer.address), 220)
                    self.where = "ehlo"
                    self.expect(client.ehlo(), 250)
                    for _ in range(MESSAGES_PER_SESSION):
                        if self.fleet.done.is_set():
                            break
                        self.submit(client)
                    self.where = "quit"
            except TimeoutError:
                self.rude.append(f"silent for {REPLY_LIMIT_S:.0f} s at {self.where}")
            except smtplib.SMTPResponseException as refusal:
                if refusal.smtp_code != 421:
                    self.rude.append(f"{refusal.smtp_code} {refusal.smtp_error!r} at {self.where}")
                self.seen[f"421 {self.where}"] += 1
            except (smtplib.SMTPServerDisconnected, ConnectionError):
                self.seen[f"lost {self.where}"] += 1
            self.fleet.done.wait(0.01)

    def expect(self, reply: tuple[int, bytes], code: int) -> None:
        if reply[0] != code:
            raise smtplib.SMTPResponseException(*reply)

    def submit(self, client: smtplib.SMTP) -> None:
        self.where = "mail"
        self.expect(client.mail(f"sender@{ORIGIN}"), 250)
        self.where = "rcpt"
        self.expect(client.rcpt(self.recipient()), 250)
        self.where = "data"
        self.expect(client.data(message(self.name(), self.fleet.body)), 250)
        self.note_accepted("250")


class HttpSender(Sender):
    """Injects marked messages one after the other, each under an Idempotency-Key of its own, which it repeats until it has
    a 200. It may meet a 503 (the relay's own, or HAProxy's), HAProxy's 502 where a relay died, or a lost connection."""

    def run(self) -> None:
        while not self.fleet.done.is_set():
            connection = http.client.HTTPConnection(*self.fleet.balancer.http_address, timeout=REPLY_LIMIT_S)
            try:
                while not self.fleet.done.is_set():
                    self.inject(connection)
            except TimeoutError:
                self.rude.append(f"HTTP: silent for {REPLY_LIMIT_S:.0f} s")
            except (OSError, http.client.HTTPException):
                self.seen["HTTP lost"] += 1
            finally:
                connection.close()

    def inject(self, connection: http.client.HTTPConnection) -> None:
        body = {"envelope_sender": f"sender@{ORIGIN}", "recipients": [{"email": self.recipient()}],
                "content": message(self.name(), self.fleet.body).decode()}
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Idempotency-Key": self.name()}
        connection.request("POST", "/api/inject/v1", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 200 and json.loads(text)["success_count"] == 1:
            self.note_accepted("HTTP 200")
        elif answer.status in (502, 503):
            self.seen[f"HTTP {answer.status}"] += 1
            self.fleet.done.wait(0.05)
        else:
            self.rude.append(f"HTTP {answer.status}: {text[:200]!r}")
            self.fleet.done.wait(1)


class Fleet:
    """The relays of `world`'s zone and exchanges, the balancer and the senders."""

    def __init__(self, world: World, senders: int, injectors: int, recipients: list[str], body: str) -> None:
        self.world = world
        self.recipients = recipients
        self.body = body
        self.done = threading.Event()
        config = world.relay.config
        shared = {key: config[key] for key in ("delivery", "dns")}
        self.relays = [BalancedRelay(f"relay{n}", world.folder / f"relay{n}", shared) for n in (1, 2)]
        world.zone.start()
        world.exchanges.start()
        for relay in self.relays:
            relay.start()
        self.balancer = HAProxy(world.folder, self.relays)
        world.helpers.append(self.balancer)
        for relay in self.relays:
            self.balancer.wait_state(relay.name, "UP")
        self.senders: list[Sender] = [SmtpSender(self, number) for number in range(1, senders + 1)]
        self.senders += [HttpSender(self, senders + number) for number in range(1, injectors + 1)]

    def start_load(self) -> None:
        for sender in self.senders:
            sender.start()

    def accepted(self) -> int:
        return sum(len(sender.accepted) for sender in self.senders)

    def seen(self) -> collections.Counter[str]:
        return sum((sender.seen for sender in self.senders), collections.Counter())

    def rude(self) -> list[str]:
        return [text for sender in self.senders for text in sender.rude]

    def wait_more(self, count: int, relay: BalancedRelay | None = None, limit: float = 2.5 * WAIT_LIMIT) -> None:
        """Until the fleet, or one relay, has taken so many more."""
        def taken() -> int:
            return len(relay.logged("accepted")) if relay is not None else self.accepted()
        goal = taken() + count
        wait_until(lambda: taken() >= goal, f"{count} more messages accepted", limit, pause=0.05)

    def finish_load(self) -> list[str]:
        """Ends the senders; returns the marks of all that got a 250."""
        self.done.set()
        for sender in self.senders:
            sender.join(REPLY_LIMIT_S + 5)
        return [name for sender in self.senders for name in sender.accepted]

    def missing(self, names: Iterable[str]) -> set[str]:
        return {f"<{name}@{ORIGIN}>" for name in names} - {line["message_id"] for line in self.world.exchanges.accepted()}

    def is_idle(self) -> bool:
        return all(relay.json("queue", "list") == [] for relay in self.relays)

    def copies(self) -> int:
        """Deliveries beyond the first of a message."""
        return sum(len(line["duplicate_for"]) for line in self.world.exchanges.accepted())

    def stop(self) -> None:
        for relay in self.relays:
            relay.terminate()
        self.balancer.stop()

    def cleanup(self) -> None:
        self.done.set()
        for relay in self.relays:
            relay.cleanup()
