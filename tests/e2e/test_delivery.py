"""Mail goes through, unchanged and once: our clients and third parties' on one side, exchanges on the other."""

from __future__ import annotations

import concurrent.futures
import email
import email.policy
import hashlib
import re
import smtplib
import subprocess

from harness import E2ETest, ORIGIN, PATIENT, Relay, World, content_of, main, message, scaled, tool, up_to_data, wait_until

SENDER = f"sender@postbox.{ORIGIN}"


def without_trace(content: bytes) -> bytes:
    """The content as it was submitted: the relay's own Received field stands in front of it."""
    found = re.match(rb"Received: .*?\r\n(?![ \t])", content, re.DOTALL)
    assert found is not None, content[:200]
    return content[found.end():]


class OneMessage(E2ETest):
    """Content and envelope come out as they went in."""

    limit_s = 30

    def deliver(self, body: str | bytes, behaviour: str = "good", **options: list[str]) -> tuple[World, bytes]:
        """Sends one message and returns what the exchange got, trace field aside."""
        world = self.world()
        domain, _ = world.domain("one", behaviour)
        world.start().send(SENDER, [f"r@{domain}"], "one", body, **options)
        record = world.wait_accepted("one")[0]
        return world, without_trace(world.exchanges.content(record))

    def check_unchanged(self, body: str | bytes, behaviour: str = "good", **options: list[str]) -> World:
        world, content = self.deliver(body, behaviour, **options)
        self.assertEqual(content, message("one", body, SENDER))
        return world

    def test_a_plain_message_arrives_unchanged(self) -> None:
        world = self.check_unchanged("Hello.\r\n")
        line = world.relay.wait_logged("delivered")[0]
        record = world.exchanges.accepted("one")[0]
        self.assertEqual((record["sender"], record["recipients"]), (SENDER, [f"r@one.{ORIGIN}"]))
        self.assertEqual((line["sender"], line["recipient"]), (SENDER, f"r@one.{ORIGIN}"))
        self.assertIn(record["at"], line["address"])

    def test_dots_at_the_start_of_lines_survive(self) -> None:
        self.check_unchanged(".\r\n..\r\n.a\r\n\r\n...\r\n")

    def test_dots_survive_at_every_place_of_the_chunk_border(self) -> None:
        lines = b"".join(b"." * (n % 5) + b"x" * (n % 70) + b"\r\n" for n in range(6000))
        self.check_unchanged(lines)

    def test_the_longest_line_survives(self) -> None:
        self.check_unchanged("x" * 998 + "\r\n.\r\n" + "y" * 998 + "\r\n")

    def test_ten_megabytes_arrive_unchanged(self) -> None:
        self.check_unchanged(content_of(10_000_000))

    def test_an_empty_body_and_no_header_section_get_date_and_message_id(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        with relay.connect() as client:
            client.sendmail(SENDER, [f"r@{domain}"], b"no header here\r\n")
        record = wait_until(world.exchanges.accepted, "the message")[0]
        parsed = email.message_from_bytes(world.exchanges.content(record), policy=email.policy.default)
        self.assertIsNotNone(parsed["Date"])
        self.assertIsNotNone(parsed["Message-ID"])
        self.assertIn("no header here", parsed.get_content())

    def test_8bit_content_goes_to_an_exchange_with_8bitmime(self) -> None:
        world = self.check_unchanged("Grüße\r\n".encode(), mail_options=["BODY=8BITMIME"])
        self.assertIn("BODY=8BITMIME", world.exchanges.accepted("one")[0]["mail_parameters"])

    def test_8bit_content_is_bounced_where_8bitmime_is_missing(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "no-8bitmime")
        relay = world.start()
        relay.send("", [f"r@{domain}"], "one", "Grüße\r\n".encode(), ["BODY=8BITMIME"])
        self.assertEqual(relay.wait_logged("bounced")[0]["status"], "5.6.3")
        self.assertEqual(world.exchanges.accepted(), [])

    def test_internationalized_addresses_need_smtputf8_at_the_exchange(self) -> None:
        world = self.world()
        able, _ = world.domain("able", "good")
        unable, _ = world.domain("unable", "no-smtputf8")
        relay = world.start()
        for domain in (able, unable):
            with relay.connect() as client:
                client.ehlo()
                client.command_encoding = "utf-8"
                code, _text = client.mail("", ["SMTPUTF8", "BODY=8BITMIME"])
                self.assertEqual(code, 250)
                self.assertEqual(client.rcpt(f"grüße@{domain}")[0], 250)
                self.assertEqual(client.data(message(domain))[0], 250)
        record = world.wait_accepted(able)[0]
        self.assertEqual(record["recipients"], [f"grüße@{able}"])
        self.assertIn("SMTPUTF8", record["mail_parameters"])
        self.assertEqual(relay.wait_logged("bounced")[0]["status"], "5.6.7")

    def test_a_message_over_the_exchanges_size_is_bounced_unsent(self) -> None:
        world = self.world()
        domain, _ = world.domain("small", "size=20000")
        relay = world.start()
        relay.send("", [f"r@{domain}"], "big", content_of(50_000))
        relay.send("", [f"r@{domain}"], "fits", content_of(10_000))
        world.wait_accepted("fits")
        self.assertEqual(relay.wait_logged("bounced")[0]["status"], "5.3.4")
        self.assertEqual(world.exchanges.accepted("big"), [])

    def test_dsn_parameters_are_passed_on(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        plain, _ = world.domain("plain", "no-dsn")
        relay = world.start()
        for name in (domain, plain):
            relay.send(SENDER, [f"r@{name}"], name, mail_options=["RET=HDRS", "ENVID=QQ314159"],
                       rcpt_options=["NOTIFY=FAILURE,DELAY", f"ORCPT=rfc822;Bob+2B@{name}"])
        record = world.wait_accepted(domain)[0]
        self.assertLessEqual({"RET=HDRS", "ENVID=QQ314159"}, set(record["mail_parameters"]))
        wanted = {"NOTIFY=FAILURE,DELAY", f"ORCPT=rfc822;Bob+2B@{domain}"}
        self.assertLessEqual(wanted, set(record["rcpt_parameters"][0]))
        bare = world.wait_accepted(plain)[0]
        self.assertEqual(bare["rcpt_parameters"], [[]])
        self.assertFalse(any(p.startswith(("RET", "ENVID")) for p in bare["mail_parameters"]))

    def test_starttls_is_used_where_offered(self) -> None:
        world = self.check_unchanged("secret\r\n", "starttls;tls-only")
        self.assertTrue(world.exchanges.accepted("one")[0]["tls"].startswith("TLSv1."))
        self.assertTrue(world.relay.wait_logged("delivered")[0]["tls"].startswith("TLSv1."))

    def test_many_replies_that_come_at_once_inside_of_tls_are_all_read(self) -> None:
        """Each is a record of its own, and no event tells of those that the first read left behind."""
        world = self.world(delivery={"recipients_per_transaction": 90})
        domain, _ = world.domain("one", "starttls;tls-only;corked")
        recipients = [f"r{n}@{domain}" for n in range(90)]
        world.start().send(SENDER, recipients, "one")
        self.assertEqual(len(world.wait_accepted("one")[0]["recipients"]), 90)

    def test_starttls_is_not_used_where_off(self) -> None:
        world = self.world(delivery={"tls": "off"})
        domain, _ = world.domain("one", "starttls")
        world.start().send(SENDER, [f"r@{domain}"], "one")
        self.assertEqual(world.wait_accepted("one")[0]["tls"], "")

    def test_exchanges_without_extensions_are_served(self) -> None:
        bare = "no-size;no-enhanced;no-dsn;no-smtputf8;no-chunking;no-8bitmime;no-pipelining"
        for behaviour in ("no-pipelining", "no-ehlo", bare):
            with self.subTest(behaviour=behaviour):
                self.check_unchanged("Hello.\r\n", behaviour)

    def test_received_says_from_whom_and_by_whom(self) -> None:
        world, _ = self.deliver("Hello.\r\n")
        content = world.exchanges.content(world.exchanges.accepted("one")[0])
        trace = str(email.message_from_bytes(content)["Received"])
        for word in ("client.example.org", "[127.0.0.1]", f"by relay.{ORIGIN}", "ESMTP"):
            self.assertIn(word, trace)


class ManyRecipients(E2ETest):
    limit_s = 60

    def test_recipients_of_one_domain_share_transactions(self) -> None:
        world = self.world(delivery={"recipients_per_transaction": 50})
        domain, _ = world.domain("many", "good")
        relay = world.start()
        recipients = [f"r{n}@{domain}" for n in range(500)]
        relay.send(SENDER, recipients, "many")
        wait_until(lambda: len(world.recipients_taken("many")) >= 500, "500 recipients")
        self.assertEqual(sorted(world.recipients_taken("many")), sorted(recipients))
        records = world.exchanges.accepted("many")
        self.assertEqual(len(records), 10)
        self.assertEqual(len({record["sha256"] for record in records}), 1)

    def test_recipients_of_many_domains_each_get_it_once(self) -> None:
        world = self.world()
        exchange = world.exchange("good")
        domains = [world.mx(f"d{n}", exchange) for n in range(100)]
        relay = world.start()
        recipients = [f"r@{domain}" for domain in domains]
        relay.send(SENDER, recipients, "many")
        wait_until(lambda: len(world.recipients_taken("many")) >= 100, "100 recipients")
        relay.wait_logged("delivered", 100)
        self.assertEqual(sorted(world.recipients_taken("many")), sorted(recipients))

    def test_domains_in_any_case_are_one_domain(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        world.start().send(SENDER, [f"a@{domain}", f"B@{domain.upper()}"], "case")
        wait_until(lambda: len(world.recipients_taken("case")) == 2, "both recipients")
        self.assertEqual(len(world.exchanges.accepted("case")), 1)
        self.assertEqual({r.partition("@")[0] for r in world.recipients_taken("case")}, {"a", "B"})


class Submission(E2ETest):
    """Ways in that smtplib does not take by itself."""

    limit_s = 30

    def test_bdat_in_chunks_of_any_cut(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        whole = message("bdat", ".dots\r\n..\r\n" + content_of(200_000), SENDER)
        with relay.connect() as client:
            client.ehlo()
            self.assertTrue(client.has_extn("chunking"))
            self.assertEqual(client.mail(SENDER)[0], 250)
            self.assertEqual(client.rcpt(f"r@{domain}")[0], 250)
            for start in range(0, len(whole), 60_001):
                part = whole[start:start + 60_001]
                last = " LAST" if start + 60_001 >= len(whole) else ""
                client.send(f"BDAT {len(part)}{last}\r\n".encode() + part)
                self.assertEqual(client.getreply()[0], 250)
        record = world.wait_accepted("bdat")[0]
        self.assertEqual(without_trace(world.exchanges.content(record)), whole)

    def test_a_pipelined_group_in_one_write(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        with relay.socket() as sock:
            sock.recv(512)
            sock.sendall(b"EHLO c.example\r\n")
            self.assertIn(b"PIPELINING", sock.recv(4096))
            one = b"MAIL FROM:<%b>\r\nRCPT TO:<r@%b>\r\nDATA\r\n" % (SENDER.encode(), domain.encode())
            sock.sendall(b"".join(one + message(f"p{n}") + b".\r\n" for n in range(5)) + b"QUIT\r\n")
            answer = b""
            while block := sock.recv(65536):
                answer += block
        self.assertEqual(answer.count(b"Queued as"), 5)
        for number in range(5):
            world.wait_accepted(f"p{number}")

    def test_smuggled_line_ends_are_refused(self) -> None:
        """RFC 5321 2.3.8: neither a bare LF nor a bare CR ends a line, so none can hide an end of data."""
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        for number, end in enumerate((b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r")):
            with self.subTest(end=end), relay.connect() as client:
                client.ehlo()
                client.mail(SENDER)
                client.rcpt(f"r@{domain}")
                client.docmd("DATA")
                smuggled = b"MAIL FROM:<evil@evil.example>\r\nRCPT TO:<r@%b>\r\nDATA\r\nevil\r\n" % domain.encode()
                client.send(message(f"s{number}")[:-2] + end + smuggled + b"\r\n.\r\n")
                code, _text = client.getreply()
                self.assertGreaterEqual(code, 500)
                self.assertEqual(client.noop()[0], 250)
        relay.send(SENDER, [f"r@{domain}"], "sound")
        world.wait_accepted("sound")
        self.assertEqual(len(world.exchanges.accepted()), 1)

    def test_rset_and_quit_in_the_middle_leave_nothing(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        with relay.connect() as client:
            client.ehlo()
            client.mail(SENDER)
            client.rcpt(f"r@{domain}")
            self.assertEqual(client.rset()[0], 250)
            self.assertGreaterEqual(client.docmd("DATA")[0], 500)
        with relay.socket() as sock:
            sock.recv(512)
            sock.sendall(up_to_data(SENDER, f"r@{domain}") + b"half a mess")
        relay.send(SENDER, [f"r@{domain}"], "whole")
        world.wait_accepted("whole")
        self.assertEqual(len(world.exchanges.accepted()), 1)

    def test_a_mail_loop_is_refused(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        looped = b"Received: from a by b; Thu, 01 Jan 2026 00:00:00 +0000\r\n" * 101 + message("loop")
        with relay.connect() as client, self.assertRaises(smtplib.SMTPDataError) as caught:
            client.sendmail(SENDER, [f"r@{domain}"], looped)
        self.assertEqual(caught.exception.smtp_code, 554)
        self.assertIn(b"5.4.6", caught.exception.smtp_error)


class ThirdParties(E2ETest):
    """Clients and servers that others wrote."""

    limit_s = 60

    def swaks(self, relay: Relay, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tool("swaks"), "--server", f"127.0.0.1:{relay.port}", *arguments], capture_output=True,
                              text=True, timeout=120, check=False)

    def test_swaks_submits_and_the_message_arrives(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        done = self.swaks(relay, "--from", SENDER, "--to", f"r@{domain}", "--header", "Subject: swaks here",
                          "--header", f"Message-Id: <swaks@{ORIGIN}>")
        self.assertEqual(done.returncode, 0, done.stdout)
        record = world.wait_accepted("swaks")[0]
        self.assertIn(b"Subject: swaks here", world.exchanges.content(record))

    def test_swaks_is_told_of_a_bad_recipient(self) -> None:
        world = self.world()
        relay = world.start()
        done = self.swaks(relay, "--from", SENDER, "--to", "nobody-without-domain")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"<\*\* 5\d\d ")

    def test_smtp_source_to_smtp_sink_each_message_once(self) -> None:
        world = self.world()
        sink = world.sink()
        domain = world.mx("one", sink.address)
        relay = world.start()
        count = scaled(2000)
        self.source(relay, f"r@{domain}", count, 20, 10_240)
        wait_until(lambda: sink.count() >= count, f"{count} messages at the sink")
        relay.wait_logged("delivered", count)
        names = sink.recipients()
        self.assertEqual(len(names), count)
        self.assertEqual(len(set(names)), count)

    def source(self, relay: Relay, recipient: str, count: int, sessions: int, size: int, *more: str) -> None:
        done = subprocess.run([tool("smtp-source"), "-s", str(sessions), "-m", str(count), "-l", str(size), "-N",
                               "-f", SENDER, "-t", recipient, *more, f"127.0.0.1:{relay.port}"], capture_output=True,
                              text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_smtp_source_over_many_domains(self) -> None:
        world = self.world()
        sinks = [world.sink() for _ in range(4)]
        domains = [world.mx(f"d{n}", sinks[n % 4].address) for n in range(40)]
        relay = world.start()
        each = scaled(50)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda domain: self.source(relay, f"r@{domain}", each, 5, 5000), domains))
        total = each * len(domains)
        wait_until(lambda: sum(sink.count() for sink in sinks) >= total, f"{total} messages")
        relay.wait_logged("delivered", total)
        names = [name for sink in sinks for name in sink.recipients()]
        self.assertEqual((len(names), len(set(names))), (total, total))


class Connections(E2ETest):
    """What travels together uses one connection."""

    limit_s = 30

    def test_messages_for_one_exchange_reuse_a_connection(self) -> None:
        world = self.world(delivery={"connections_per_destination": 1, "idle": "30s", **PATIENT})
        domain, (address,) = world.domain("one", "good")
        relay = world.start()
        with relay.connect() as client:
            for number in range(50):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}"))
        wait_until(lambda: len(world.exchanges.accepted()) == 50, "50 messages")
        self.assertEqual(world.exchanges.connections(address), 1)

    def test_messages_per_connection_is_obeyed(self) -> None:
        world = self.world(delivery={"connections_per_destination": 1, "messages_per_connection": 10})
        domain, (address,) = world.domain("one", "good")
        relay = world.start()
        with relay.connect() as client:
            for number in range(50):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}"))
        wait_until(lambda: len(world.exchanges.accepted()) == 50, "50 messages")
        for connection in range(1, world.exchanges.connections(address) + 1):
            self.assertLessEqual(len(world.exchanges.accepted(connection=connection)), 10)

    def test_connections_per_destination_is_obeyed(self) -> None:
        world = self.world(delivery={"connections_per_destination": 3, **PATIENT})
        flag = world.folder / "held"
        flag.touch()
        domain, (address,) = world.domain("one", f"hold@DOT;while={flag}")
        relay = world.start()
        with relay.connect() as client:
            for number in range(60):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}"))
        wait_until(lambda: world.exchanges.open_now(address) > 1, "more than one connection")
        flag.unlink()
        wait_until(lambda: len(world.exchanges.accepted()) == 60, "60 messages")
        open_now = most = 0
        for event in world.exchanges.events.where(at=world.exchanges.at(address)):
            open_now += {"open": 1, "closed": -1}.get(event["event"], 0)
            most = max(most, open_now)
        self.assertLessEqual(most, 3)
        self.assertGreater(most, 1)

    def test_an_exchange_whose_last_reply_is_late_each_time_gets_all_mail_at_the_first_attempt(self) -> None:
        world = self.world(delivery={"connections_per_destination": 1, "patience_min": "1s", "patience_max": "1s"})
        domain, _ = world.domain("one", "delay@DOT=3")
        relay = world.start()
        with relay.connect() as client:
            for number in range(4):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}"))
        relay.wait_logged("delivered", 4)
        self.assertEqual(relay.logged("deferred"), [])
        self.assertEqual(len(world.exchanges.accepted()), 4)

    def test_an_exchange_that_ends_a_kept_connection_is_not_blamed(self) -> None:
        world = self.world(delivery=PATIENT)
        domain, (first, second) = world.domain("one", "mail-max=1", "good")
        relay = world.start()
        for number in range(5):
            relay.send(SENDER, [f"r@{domain}"], f"m{number}")
            world.wait_accepted(f"m{number}")
        self.assertEqual(world.exchanges.accepted(at=world.exchanges.at(second)), [])
        self.assertEqual(len(world.exchanges.accepted(at=world.exchanges.at(first))), 5)

    def test_the_same_bytes_reach_every_domain(self) -> None:
        world = self.world()
        domains = [world.domain(f"d{n}", "good")[0] for n in range(10)]
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}" for domain in domains], "same", content_of(300_000))
        records = world.wait_accepted("same", 10)
        contents = {hashlib.sha256(world.exchanges.content(record)).hexdigest() for record in records}
        self.assertEqual(len(contents), 1)


if __name__ == "__main__":
    main()
