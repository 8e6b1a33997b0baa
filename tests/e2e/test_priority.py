"""Transactional mail before bulk mail: by counts, never by the clock."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from harness import E2ETest, ORIGIN, PATIENT, Ports, WAIT_LIMIT, main, message, wait_until

SENDER = f"sender@{ORIGIN}"
BACKLOG = 40


class Priority(E2ETest):
    """One exchange, one connection, and an answer that is held until a backlog stands behind it."""

    def start(self, more_listeners: tuple[dict[str, str], ...] = ()) -> None:
        self.w = self.world(delivery={"connections_per_destination": 1, **PATIENT})
        self.held = self.w.folder / "held"
        self.held.touch()
        self.domain, _ = self.w.domain("slow", f"hold@DOT;while={self.held}")
        listeners = self.w.relay.config["submission"]["listen"] + list(more_listeners)
        self.w.relay.write_config(submission={"listen": listeners})
        self.relay = self.w.start()
        with self.relay.connect() as client:
            for i in range(BACKLOG):
                client.sendmail(SENDER, [f"b{i}@{self.domain}"], message(f"bulk{i}"))
        wait_until(self.w.exchanges.accepted, "the first of them, of whichever worker, to be taken")
        self.before = len(self.w.exchanges.accepted())

    def mark(self, message_id: str, value: str, field: str = "X-Priority-Class") -> None:
        with self.relay.connect() as client:
            client.sendmail(SENDER, [f"r@{self.domain}"], f"{field}: {value}\r\n".encode() + message(message_id))

    def passed_by(self, message_id: str) -> int:
        """Lets go. How many went before it of those that were waiting."""
        self.held.unlink(missing_ok=True)
        self.w.wait_accepted(message_id)
        order = [line["message_id"] for line in self.w.exchanges.accepted()]
        return order.index(f"<{message_id}@{ORIGIN}>") - self.before

    def test_a_marked_message_goes_before_the_backlog_and_is_shown_so(self) -> None:
        self.start()
        self.mark("code", "Transactional")
        listed = {line["recipient"]: line["priority"] for line in self.relay.json("queue", "list")}
        self.assertEqual(listed[f"b{BACKLOG - 1}@{self.domain}"], "bulk")
        self.assertLess(self.passed_by("code"), BACKLOG // 4)
        self.assertEqual(self.relay.wait_logged("delivered", priority="transactional")[0]["recipient"],
                         f"r@{self.domain}")
        record = self.w.exchanges.accepted("code")[0]
        self.assertIn(b"X-Priority-Class: Transactional", self.w.exchanges.content(record), "the field was taken out")

    def test_a_listener_gives_its_class_and_the_field_outranks_it(self) -> None:
        port = Ports.take()
        self.start(({"address": f"127.0.0.1:{port}", "priority": "transactional"},))
        own = self.relay.port
        self.relay.port = port
        self.mark("newsletter", "bulk")
        self.relay.send(SENDER, [f"r2@{self.domain}"], "code")
        self.relay.port = own
        self.assertLess(self.passed_by("code"), BACKLOG // 4)
        logged = self.relay.wait_logged("accepted", priority="transactional")
        self.assertEqual(len(logged), 1, "the newsletter was taken for transactional")

    def inject(self, message_id: str, **more: Any) -> tuple[int, Any]:
        """By HTTP, over the relay's unix socket."""
        connection = http.client.HTTPConnection("localhost", timeout=WAIT_LIMIT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(WAIT_LIMIT)
        connection.sock.connect(self.relay.config["http"]["listen"][0]["socket"])
        try:
            connection.request("POST", "/api/inject/v1", json.dumps(
                {"envelope_sender": SENDER, "recipients": [{"email": f"r@{self.domain}"}],
                 "content": message(message_id).decode(), **more}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def test_an_injection_says_its_class_and_is_bulk_without(self) -> None:
        self.start()
        self.assertEqual(self.inject("newsletter")[0], 200)
        self.assertEqual(self.inject("code", priority="transactional")[0], 200)
        status, answer = self.inject("wrong", priority="urgent")
        self.assertEqual((status, "priority" in answer["error"]), (400, True), answer)
        self.assertLess(self.passed_by("code"), BACKLOG // 4)
        self.assertGreaterEqual(self.passed_by("newsletter"), BACKLOG // 2)
        self.assertEqual(len(self.relay.wait_logged("accepted", priority="transactional")), 1)

    def test_bulk_moves_on_behind_a_flood_of_transactional_mail(self) -> None:
        self.start()
        before = len([r for r in self.w.recipients_taken() if r.startswith("b")])
        with self.relay.connect() as client:
            for i in range(BACKLOG):
                client.sendmail(SENDER, [f"t{i}@{self.domain}"],
                                b"X-Priority-Class: transactional\r\n" + message(f"code{i}"))
        self.held.unlink()
        self.w.wait_accepted(f"code{BACKLOG - 1}")
        bulk = len([r for r in self.w.recipients_taken() if r.startswith("b")]) - before
        self.assertGreaterEqual(bulk, BACKLOG // 8)

    def test_a_wrong_class_is_no_reason_to_refuse_mail(self) -> None:
        self.start()
        self.mark("odd", "very urgent indeed")
        self.relay.wait_logged("accepted", BACKLOG + 1, priority="bulk")
        self.held.unlink()


if __name__ == "__main__":
    main()
