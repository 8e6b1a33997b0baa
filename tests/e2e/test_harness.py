"""The tools the other tests trust: an exchange that missed a fault of the relay's would let every test pass."""

from __future__ import annotations

import pathlib
import smtplib
import socket
import ssl
import subprocess
import tempfile

from harness import (E2ETest, Exchanges, ORIGIN, Ports, Sink, WAIT_LIMIT, Zone, content_of, hard_limit, main, message, to_yaml,
                     tool, wait_until)


class ExchangeTest(E2ETest):
    """peers/exchange.py against a client that is known to be right, and against one that is wrong."""

    limit_s = 30

    def exchange(self, behaviour: str) -> Exchanges:
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        exchanges = Exchanges(folder, Ports.take())
        exchanges.add("127.0.0.1", behaviour)
        exchanges.start()
        self.addCleanup(exchanges.stop)
        return exchanges

    def client(self, exchanges: Exchanges) -> smtplib.SMTP:
        return self.enterContext(smtplib.SMTP("127.0.0.1", exchanges.port, "client.example.org", timeout=WAIT_LIMIT))

    def raw(self, exchanges: Exchanges, data: bytes) -> bytes:
        """All that comes back for these bytes."""
        with socket.create_connection(("127.0.0.1", exchanges.port), WAIT_LIMIT) as sock:
            received = sock.recv(4096)
            sock.sendall(data)
            while block := sock.recv(65536):
                received += block
            return received

    def send(self, exchanges: Exchanges, name: str = "m", body: str = "Hello.\r\n") -> None:
        self.client(exchanges).sendmail(f"a@{ORIGIN}", [f"b@{ORIGIN}"], message(name, body))

    def test_a_good_exchange_keeps_the_content_to_the_byte(self) -> None:
        exchanges = self.exchange("good")
        self.send(exchanges, body=".dot\r\n..two\r\n\r\n.\r\nend\r\n")
        record = exchanges.accepted("m")[0]
        self.assertEqual(exchanges.content(record), message("m", ".dot\r\n..two\r\n\r\n.\r\nend\r\n"))
        self.assertEqual((record["sender"], record["recipients"]), (f"a@{ORIGIN}", [f"b@{ORIGIN}"]))
        self.assertEqual(exchanges.violations(), [])

    def test_a_second_copy_is_noticed(self) -> None:
        exchanges = self.exchange("good")
        self.send(exchanges)
        self.send(exchanges)
        self.assertEqual([r["duplicate_for"] for r in exchanges.accepted("m")], [[], [f"b@{ORIGIN}"]])

    def test_starttls_works(self) -> None:
        exchanges = self.exchange("starttls;tls-only")
        client = self.client(exchanges)
        context = ssl.create_default_context(cafile=str(exchanges.folder / "cert.pem"))
        context.check_hostname = False
        client.starttls(context=context)
        client.sendmail(f"a@{ORIGIN}", [f"b@{ORIGIN}"], message("m"))
        self.assertTrue(exchanges.accepted("m")[0]["tls"].startswith("TLS"))

    def test_pipelining_that_was_not_offered_is_a_violation(self) -> None:
        exchanges = self.exchange("no-pipelining")
        self.raw(exchanges, b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nQUIT\r\n")
        self.assertTrue(any("PIPELINING" in v["what"] for v in exchanges.violations()))

    def test_bad_content_is_a_violation(self) -> None:
        exchanges = self.exchange("no-8bitmime")
        self.raw(exchanges, b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nbare\nline \xff\r\n.\r\nQUIT\r\n")
        found = " ".join(v["what"] for v in exchanges.violations())
        self.assertIn("bare CR or LF", found)
        self.assertIn("8-bit content", found)
        self.assertIn("behind DATA", found)

    def test_replies_to_order(self) -> None:
        exchanges = self.exchange("reply@RCPT/bob=550 5.1.1 No bob;rcpt-max=2;size=1000")
        client = self.client(exchanges)
        client.ehlo()
        self.assertEqual(client.esmtp_features["size"], "1000")
        client.mail(f"a@{ORIGIN}")
        codes = [client.rcpt(f"{who}@{ORIGIN}")[0] for who in ("ann", "bob", "cid", "dan")]
        self.assertEqual(codes, [250, 550, 250, 452])

    def test_faults_end_as_ordered(self) -> None:
        for phase in ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "DOT"):
            for kind in ("close", "reset"):
                with self.subTest(phase=phase, kind=kind):
                    exchanges = self.exchange(f"{kind}@{phase}")
                    with self.assertRaises((smtplib.SMTPServerDisconnected, ConnectionError)):
                        self.send(exchanges)
                    self.assertEqual(exchanges.accepted(), [])
                    exchanges.stop()

    def test_a_lost_reply_leaves_the_message_taken(self) -> None:
        exchanges = self.exchange("lose@DOT")
        with self.assertRaises((smtplib.SMTPServerDisconnected, ConnectionError)):
            self.send(exchanges)
        self.assertEqual(len(exchanges.accepted("m")), 1)

    def test_silence_trickle_and_flood(self) -> None:
        for behaviour, least in (("silent@GREETING", 0), ("trickle@GREETING=0.05", 2), ("flood@GREETING", 100_000)):
            with self.subTest(behaviour=behaviour):
                exchanges = self.exchange(behaviour)
                with socket.create_connection(("127.0.0.1", exchanges.port), WAIT_LIMIT if least > 0 else 0.5) as sock:
                    got = 0
                    try:
                        while got <= least * 2:
                            got += len(sock.recv(65536))
                    except TimeoutError:
                        pass
                    self.assertGreaterEqual(got, least)
                wait_until(lambda: exchanges.open_now("127.0.0.1") == 0, "the exchange to see the end")
                exchanges.stop()

    def test_an_exchange_that_stops_reading_blocks_the_sender(self) -> None:
        exchanges = self.exchange("halt@BODY")
        client = self.client(exchanges)
        client.timeout = 1
        client.sock.settimeout(1)
        with self.assertRaises((TimeoutError, smtplib.SMTPServerDisconnected)):
            client.sendmail(f"a@{ORIGIN}", [f"b@{ORIGIN}"], message("m", content_of(10_000_000)))
        self.assertEqual(exchanges.accepted(), [])

    def test_a_full_backlog_answers_no_syn(self) -> None:
        exchanges = self.exchange("backlog")
        with self.assertRaises(TimeoutError):
            socket.create_connection(("127.0.0.1", exchanges.port), 0.5)

    def test_faults_end_with_their_file(self) -> None:
        flag = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "flag"
        flag.touch()
        exchanges = self.exchange(f"reply@MAIL=451 4.3.0 Later;while={flag}")
        with self.assertRaises(smtplib.SMTPException):
            self.send(exchanges)
        flag.unlink()
        self.send(exchanges)
        self.assertEqual(len(exchanges.accepted("m")), 1)


class ToolsTest(E2ETest):
    limit_s = 30

    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_the_name_server_serves_the_zone(self) -> None:
        zone = Zone(self.folder())
        zone.add("a MX 10 b.a", "b.a A 127.0.0.9")
        zone.start()
        self.addCleanup(zone.stop)
        assert zone.process is not None
        self.assertTrue(zone.process.running())

    def test_the_sink_counts_every_copy(self) -> None:
        port = Ports.take()
        sink = Sink(self.folder(), "127.0.0.2", port)
        self.addCleanup(sink.stop)
        subprocess.run([tool("smtp-source"), "-s", "4", "-m", "40", "-N", "-l", "2000", "-t", f"r@{ORIGIN}",
                        f"127.0.0.2:{port}"], check=True)
        self.assertEqual(sink.count(), 40)
        self.assertEqual(len(set(sink.recipients())), 40)

    def test_a_test_that_hangs_fails(self) -> None:
        with self.assertRaisesRegex(AssertionError, "longer than its limit"), hard_limit(1, "waiting for ever"):
            wait_until(lambda: False, "what never comes")

    def test_yaml_of_nested_values(self) -> None:
        self.assertEqual(to_yaml({"a": {"b": [1, {"c": "x: y"}], "d": []}}),
                         'a:\n  b:\n    - 1\n    -\n      c: "x: y"\n  d: []\n')


if __name__ == "__main__":
    main()
