"""More mail than can be carried: the submitter is told, nothing grows without end, and nobody waits for another."""

from __future__ import annotations

import json
import signal
import smtplib
import time

from harness import (SANITIZED, WAIT_LIMIT, E2ETest, ORIGIN, Relay, UnixConnection, World, content_of, main, message, scaled,
                     wait_until)

SENDER = f"sender@{ORIGIN}"
SLOW_S = 2  # what a slow exchange takes for a message


class Overload(E2ETest):
    limit_s = 90

    def state(self, relay: Relay) -> dict[str, int | str]:
        return relay.json("status")[0]["intake"]

    def wait_state(self, relay: Relay, state: str) -> None:
        wait_until(lambda: self.state(relay)["state"] == state, f"the state {state}", pause=0.1)

    def submit(self, client: smtplib.SMTP, name: str, recipients: list[str], body: str = "Hello.\r\n") -> tuple[int, bytes]:
        """One transaction; the reply that decided it."""
        code, text = client.mail(SENDER)
        if code != 250:
            return code, text
        replies = [client.rcpt(recipient) for recipient in recipients]
        if all(reply[0] != 250 for reply in replies):
            client.rset()
            return replies[-1]
        try:
            return client.data(message(name, body))
        except smtplib.SMTPDataError as refused:  # at DATA already
            client.rset()
            return refused.smtp_code, refused.smtp_error if isinstance(refused.smtp_error, bytes) else b""

    def domains(self, world: World, behaviour: str) -> list[str]:
        """So many, of one exchange, that none of them has its share of a queue before that is full."""
        address = world.exchange(behaviour)
        return [world.mx(f"many{n}", address) for n in range(50)]

    def fill(self, relay: Relay, domains: list[str], limit: int, recipients: int = 1) -> tuple[int, bytes]:
        """Submits to one domain after the other until the queue is full; how many messages were taken, and the refusal's text. Just
        before that is found, a domain may have its share of what is left."""
        taken, until = 0, time.monotonic() + WAIT_LIMIT
        with relay.connect() as client:
            client.ehlo()
            while taken < limit and time.monotonic() < until:
                domain = domains[taken % len(domains)]
                code, text = self.submit(client, f"m{taken}", [f"r{n}@{domain}" for n in range(recipients)])
                if code == 250:
                    taken += 1
                    continue
                self.assertEqual(code, 452)
                if b"share" not in text:
                    return taken, text
                time.sleep(0.01)
        raise AssertionError(f"{taken} messages were taken, and it is not full")


class Bounds(Overload):
    """A configured bound of the queue, or of memory, is reached."""

    def check_bound(self, spool: dict[str, int], recipients_each: int, fits: int) -> None:
        world = self.world(spool=spool, retry={"first": "500ms", "max": "1s"})
        flag = world.folder / "full"
        flag.touch()
        domains = self.domains(world, f"reply@MAIL=450 4.3.2 Later;while={flag}")
        relay = world.start()
        taken, text = self.fill(relay, domains, fits + 50, recipients_each)
        self.assertEqual(text, b"4.3.1 The queue is full, try again later")
        self.assertGreaterEqual(taken, fits)
        self.assertLessEqual(taken, fits + 2)  # what is being committed comes on top
        self.wait_state(relay, "queue_full")
        view = self.state(relay)
        self.assertEqual(view["messages_queued"], taken)
        self.assertGreater(int(view["refused"]), 0)
        self.assertIn("The queue is full", relay.run("status").stdout)
        relay.wait_logged("intake", state="queue_full")
        flag.unlink()
        self.wait_state(relay, "open")
        relay.wait_logged("intake", state="open")
        relay.send(SENDER, [f"r@{domains[0]}"], "after")
        world.wait_accepted("after")
        wait_until(lambda: len(world.recipients_taken()) >= taken * recipients_each + 1, "all that was taken")
        self.assertEqual(len(world.recipients_taken()), taken * recipients_each + 1)

    def test_a_full_queue_of_messages(self) -> None:
        self.check_bound({"messages_max": 40}, 1, 40)

    def test_a_full_queue_of_recipients(self) -> None:
        self.check_bound({"recipients_max": 100}, 5, 20)

    def test_a_bound_can_be_changed_by_a_reload(self) -> None:
        world = self.world(spool={"messages_max": 5}, retry={"first": "1m"})
        domains = self.domains(world, "reply@MAIL=450 4.3.2 Later")
        relay = world.start()
        self.fill(relay, domains, 20)
        relay.write_config(spool={"messages_max": 50})
        assert relay.process is not None
        relay.process.signal(signal.SIGHUP)
        self.wait_state(relay, "open")
        relay.send(SENDER, [f"r@{domains[0]}"], "more")

    def test_beyond_the_memory_limit_mail_and_connections_are_refused(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        used = wait_until(lambda: int(self.state(relay)["memory_bytes"]), "a reading")
        with relay.connect() as client:
            client.ehlo()
            relay.write_config(memory={"max": f"{used // 2}B"})
            assert relay.process is not None
            relay.process.signal(signal.SIGHUP)
            self.wait_state(relay, "memory")
            code, text = client.mail(SENDER)
            self.assertEqual((code, text), (452, b"4.3.1 No memory for more mail now, try again later"))
            with self.assertRaises(smtplib.SMTPConnectError) as refused:
                relay.connect()
            self.assertEqual(refused.exception.smtp_code, 421)
            relay.write_config(memory={"max": f"{used * 10}B"})
            relay.process.signal(signal.SIGHUP)
            self.wait_state(relay, "open")
            self.assertEqual(self.submit(client, "m", [f"r@{domain}"])[0], 250)
        world.wait_accepted("m")


class Shares(Overload):
    """A destination that takes nothing leaves room for mail to others."""

    def test_one_destination_does_not_use_up_a_full_queue(self) -> None:
        world = self.world(spool={"recipients_max": 100}, retry={"first": "500ms", "max": "1s"})
        flag = world.folder / "stuck"
        flag.touch()
        hog, _ = world.domain("hog", f"reply@MAIL=450 4.3.2 Later;while={flag}")
        good, _ = world.domain("good", "good")
        relay = world.start()
        with relay.connect() as client:
            client.ehlo()
            for number in range(100):  # one at a time, each counted before the next: it stops by itself
                client.mail(SENDER)
                code, text = client.rcpt(f"r@{hog}")
                if code != 250:
                    break
                self.assertEqual(client.data(message(f"hog{number}", "Hello.\r\n"))[0], 250)
            self.assertEqual((code, text), (452, b"4.3.1 The queue is nearly full and has its share of mail for this "
                                                 b"domain, try again later"))
            self.assertTrue(80 <= number <= 82, number)
            # In one message: who may come comes.
            self.assertEqual(client.rcpt(f"r@{good}")[0], 250)
            self.assertEqual(client.data(message("mixed", "Hello.\r\n"))[0], 250)
            world.wait_accepted("mixed")
            for count in range(30):  # more than a full queue would have room for
                self.assertEqual(self.submit(client, f"good{count}", [f"r@{good}"])[0], 250)
                world.wait_accepted(f"good{count}")
        self.check_http(relay, hog, good)
        view = self.state(relay)
        self.assertEqual(view["state"], "open")
        self.assertGreaterEqual(int(view["recipients_refused"]), 2)
        self.assertIn("No domain may have more than", relay.run("status").stdout)
        relay.wait_logged("intake_share")
        flag.unlink()
        wait_until(lambda: self.state(relay)["recipients_queued"] == 0, "the backlog to go out")
        relay.send(SENDER, [f"r@{hog}"], "after")
        world.wait_accepted("after")

    def check_http(self, relay: Relay, hog: str, good: str) -> None:
        connection = UnixConnection(relay.config["http"]["listen"][0]["socket"])
        self.addCleanup(connection.close)
        for recipients, status, failed in (([hog, good], 200, [hog]), ([hog], 503, [hog])):
            body = {"envelope_sender": SENDER, "content": "Subject: x\n\nx\n",
                    "recipients": [{"email": f"h@{domain}"} for domain in recipients]}
            connection.request("POST", "/api/inject/v1", json.dumps(body))
            answer = connection.getresponse()
            said = json.loads(answer.read())
            self.assertEqual((answer.status, said["failed_recipients"]), (status, [f"h@{domain}" for domain in failed]), said)
            self.assertIn("has its share of mail for this domain", said["errors"][0])


class Load(Overload):
    """For as long as you like."""

    def test_memory_stays_flat_while_a_full_queue_is_hammered(self) -> None:
        world = self.world(spool={"messages_max": 200}, retry={"first": "1m"})
        domains = self.domains(world, "reply@MAIL=450 4.3.2 Later")
        relay = world.start()
        self.fill(relay, domains, 300)
        self.wait_state(relay, "queue_full")

        def hammer(times: int) -> None:
            for _ in range(times):
                with relay.connect() as client:
                    client.ehlo()
                    for _ in range(20):
                        self.assertEqual(client.mail(SENDER)[0], 452)
        hammer(scaled(100))
        before = relay.resident_kb()
        hammer(scaled(300))
        self.assertLess(relay.resident_kb(), before + (40_000 if SANITIZED else 4_000))

    def test_a_slow_destination_with_a_backlog_holds_up_nobody_else(self) -> None:
        world = self.world(delivery={"connections_per_destination": 2, "tls": "off"})
        slow, _ = world.domain("slow", f"delay@DOT={SLOW_S}")
        good, _ = world.domain("good", "good")
        relay = world.start()
        backlog = 200
        relay.send(SENDER, [f"r@{slow}"], "slow0")  # from here on its route is known, and no worker waits for it
        world.wait_accepted("slow0")
        with relay.connect() as client:
            client.ehlo()
            for number in range(1, backlog):
                self.assertEqual(self.submit(client, f"slow{number}", [f"r@{slow}"], content_of(2000))[0], 250)
        for number in range(20):
            sent = relay.send(SENDER, [f"r@{good}"], f"good{number}")
            world.wait_accepted(f"good{number}")
            self.assertLess(time.monotonic() - sent, backlog * SLOW_S / 2 / 5)  # a fifth of what the backlog takes

        def arrived_slowly() -> list[str]:
            return [r["message_id"] for r in world.exchanges.accepted() if "slow" in r["message_id"]]
        wait_until(lambda: len(arrived_slowly()) > 6, "some of the backlog to go")
        arrived = arrived_slowly()
        self.assertLess(len(arrived), backlog)  # it was in the way all the time
        # Oldest first: what has been overtaken is on the other connection, or in the hands of one of the two workers.
        newest = 0
        for count, name in enumerate(arrived, start=1):
            newest = max(newest, int(name.split("slow")[1].split("@")[0]))
            self.assertLessEqual(newest + 1 - count, 3, f"overtaken: {arrived}")


if __name__ == "__main__":
    main()
