"""Events out: what became of the mail, told to an HTTP server that fails in every way it can."""

from __future__ import annotations

import http.server
import json
import pathlib
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from typing import Any

from harness import E2ETest, ORIGIN, World, main, tool, wait_until

SENDER = f"sender@{ORIGIN}"


class Receiver:
    """A webhook's other end: keeps what it took, answers as it is told."""

    def __init__(self, world: World, certificate: pathlib.Path | None = None, key: pathlib.Path | None = None) -> None:
        outer = self
        self.requests: list[dict[str, Any]] = []  # what was posted, taken or not
        self.taken: list[dict[str, Any]] = []     # events of requests that were answered 200
        self.tokens: list[str | None] = []
        self.status = 200
        self.stall = threading.Event()            # set: nothing is read and nothing answered
        self.released = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if outer.stall.is_set():
                    outer.requests.append({})
                    outer.released.wait(60)
                    return
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = outer.status
                outer.requests.append(body)
                outer.tokens.append(self.headers["Authorization"])
                if status == 200:
                    outer.taken += body["events"]
                self.send_response(status)
                self.send_header("Content-Length", "10")
                self.end_headers()
                self.wfile.write(b"not today\n")

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        world.helpers.append(self)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.server.server_address[1]}/hook?secret=1"

    def ids(self) -> list[str]:
        return [event["event_id"] for event in self.taken]

    def wait_taken(self, count: int) -> list[dict[str, Any]]:
        """Waits for so many different events."""
        wait_until(lambda: len(set(self.ids())) >= count, f"{count} events at the webhook (has {len(self.taken)})")
        return self.taken

    def stop(self) -> None:
        self.released.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()


class Hooked(E2ETest):
    """A relay with one webhook."""

    def start(self, *behaviours: str, **hook: Any) -> None:
        self.w = self.world()
        self.receiver = Receiver(self.w)
        hook = {"url": self.receiver.url, "max_delay": "10ms", **hook}
        self.w.relay.write_config(events={"webhooks": [hook]})
        self.domain, _ = self.w.domain("one", *(behaviours or ("good",)))
        self.relay = self.w.start()

    def send(self, *message_ids: str) -> None:
        for message_id in message_ids:
            self.relay.send(SENDER, [f"r@{self.domain}"], message_id=message_id)

    def webhook(self) -> dict[str, Any]:
        return self.relay.json("status")[0]["webhooks"][0]


class Webhooks(Hooked):

    def test_each_result_is_told_with_the_members_of_its_log_line(self) -> None:
        self.start(events=["accepted", "delivered"])
        self.send("m1")
        events = {event["event"]: event for event in self.receiver.wait_taken(2)}
        logged = self.relay.wait_logged("delivered")[0]
        told = events["delivered"]
        self.assertRegex(told.pop("event_id"), r"^[0-9a-f]{16}-[0-9]+$")
        self.assertEqual(told, logged)
        self.assertEqual(events["accepted"]["id"], logged["id"])
        self.assertEqual(self.receiver.requests[0]["relay"], self.relay.config["hostname"])

    def test_bounced_and_deferred_are_told_and_what_is_not_wanted_is_not(self) -> None:
        self.start("reply@RCPT=550 5.1.1 no such user", events=["bounced", "deferred"])
        self.send("m1")
        event = self.receiver.wait_taken(1)[0]
        self.assertEqual((event["event"], event["code"], event["recipient"]), ("bounced", 550, f"r@{self.domain}"))
        self.assertNotIn("delivered", {event["event"] for event in self.receiver.taken})

    def test_without_log_lines_events_are_told_all_the_same(self) -> None:
        self.start()
        self.relay.write_config(log={"deliveries": False})
        self.relay.restart()
        self.send("m1")
        self.receiver.wait_taken(1)
        self.assertEqual(self.relay.logged("delivered"), [])

    def test_a_server_that_fails_gets_the_same_events_again_and_mail_goes_on(self) -> None:
        self.start()
        self.receiver.status = 500
        self.send("m1", "m2")
        self.w.wait_accepted("m2")
        failed = self.relay.wait_logged("webhook_failed", 2)[0]
        self.assertIn("500", failed["text"])
        self.assertNotIn("secret", json.dumps(failed))
        wait_until(lambda: self.webhook()["failing"], "the status to say so")
        self.receiver.status = 200
        self.receiver.wait_taken(2)
        self.assertEqual(len(self.receiver.ids()), 2)
        self.relay.wait_logged("webhook_recovered")
        wait_until(lambda: self.webhook()["pending"] == 0, "nothing to be left")

    def test_what_no_server_took_is_told_after_a_restart(self) -> None:
        self.start()
        self.receiver.status = 503
        self.send("m1", "m2", "m3")
        wait_until(lambda: self.webhook()["pending"] == 3, "three events to be stored")
        self.relay.restart()
        wait_until(lambda: self.webhook()["pending"] == 3, "the stored events to be found again")
        self.receiver.status = 200
        self.receiver.wait_taken(3)

    def test_a_kill_loses_nothing_that_was_stored(self) -> None:
        self.start()
        self.receiver.status = 503
        self.send(*(f"m{i}" for i in range(20)))
        wait_until(lambda: self.webhook()["pending"] == 20, "the events to be stored")
        before = wait_until(lambda: self.receiver.requests, "a first request")[-1]["events"]
        self.relay.kill()
        self.receiver.status = 200
        self.relay.start()
        self.receiver.wait_taken(20)
        self.assertLessEqual({e["event_id"] for e in before}, set(self.receiver.ids()), "an event got another id")

    def test_a_server_that_never_answers_holds_no_mail_and_no_shutdown(self) -> None:
        self.start(timeout="300ms")
        self.receiver.stall.set()
        self.send(*(f"m{i}" for i in range(10)))
        for i in range(10):
            self.w.wait_accepted(f"m{i}")
        failed = self.relay.wait_logged("webhook_failed")[0]
        self.assertIn("imeout", failed["text"])
        self.receiver.stall.clear()
        self.receiver.released.set()
        self.receiver.wait_taken(10)

    def test_nobody_listening_is_told_in_the_log_and_the_status(self) -> None:
        self.start()
        self.receiver.stop()
        self.send("m1")
        self.relay.wait_logged("webhook_failed")
        wait_until(lambda: self.webhook()["failing"], "the status to say so")
        view = self.webhook()
        self.assertEqual((view["failing"], view["pending"], view["dropped"]), (True, 1, 0))
        self.assertTrue(view["last_error"])
        self.assertRegex(self.relay.run("status").stdout, r"(?m)^http://localhost:\d+ +1 +0 +0 +in \S+ +Couldn't connect")

    def test_batches_hold_as_many_as_they_may(self) -> None:
        self.start(batch_size=5, max_delay="10m")
        self.send(*(f"m{i}" for i in range(10)))
        self.receiver.wait_taken(10)
        self.assertEqual({len(request["events"]) for request in self.receiver.requests}, {5})

    def test_a_token_is_sent_and_read_anew(self) -> None:
        token = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "token"
        token.write_text("s3cret\n")
        self.start(token_file=str(token))
        self.send("m1")
        self.receiver.wait_taken(1)
        token.write_text("other\n")
        self.send("m2")
        self.receiver.wait_taken(2)
        self.assertEqual(self.receiver.tokens[:2], ["Bearer s3cret", "Bearer other"])

    def test_a_batch_that_is_too_large_comes_in_parts(self) -> None:
        self.start(batch_size=8)
        self.receiver.status = 413
        self.send(*(f"m{i}" for i in range(8)))
        wait_until(lambda: any(len(r["events"]) == 1 for r in self.receiver.requests), "batches of one")
        self.receiver.status = 200
        self.receiver.wait_taken(8)
        self.assertEqual(len(self.receiver.ids()), 8)

    def test_beyond_the_bound_the_oldest_are_dropped_and_counted(self) -> None:
        self.start()
        self.receiver.status = 500
        self.relay.write_config(events={"store_max": "1MB"})
        self.relay.restart()
        count = 3000
        with self.relay.connect() as client:
            for i in range(count // 100):
                client.sendmail(SENDER, [f"r{i}-{k}@{self.domain}" for k in range(100)], b"Subject: x\r\n\r\nx\r\n")
        def all_told() -> dict[str, Any] | None:
            view = self.webhook()
            return view if view["pending"] + view["dropped"] >= count else None
        view = wait_until(all_told, "all events", pause=0.1)
        self.assertEqual(view["pending"] + view["dropped"], count)
        self.assertGreater(view["dropped"], 0)
        self.receiver.status = 200
        self.receiver.wait_taken(view["pending"])
        self.assertEqual(self.receiver.requests[-1]["dropped"], view["dropped"])
        self.assertIn("r29-99", "".join(event["recipient"] for event in self.receiver.taken), "the newest was dropped")


    def test_a_reload_that_changes_webhooks_is_refused_by_name_and_one_that_does_not_leaves_them(self) -> None:
        self.start()
        url = self.relay.config["events"]["webhooks"][0]["url"]
        assert self.relay.process is not None
        self.relay.write_config(events={"webhooks": [{"url": url, "max_delay": "20ms"}]}, submission={"recipients_max": 5})
        self.relay.process.signal(signal.SIGHUP)
        self.assertIn("events.webhooks", self.relay.wait_logged("reload_refused")[0]["text"])
        self.relay.write_config(events={"webhooks": [{"url": url, "max_delay": "10ms"}]})
        self.relay.process.signal(signal.SIGHUP)
        self.relay.wait_logged("reloaded")
        self.send("m1")
        self.receiver.wait_taken(1)


class OverTls(Hooked):
    """The same receiver behind TLS, with a certificate of an authority of its own."""

    def make_certificates(self, folder: pathlib.Path) -> None:
        """ca.crt, and host.crt with host.key for `localhost`, signed by it."""
        def openssl(*arguments: str) -> None:
            subprocess.run([tool("openssl"), *arguments], check=True, capture_output=True, cwd=folder)
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.crt")
        openssl("req", *curve, "-subj", "/CN=localhost", "-keyout", "host.key", "-out", "host.csr")
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        openssl("x509", "-req", "-in", "host.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "names", "-out", "host.crt")

    def start(self, *behaviours: str, **hook: Any) -> None:
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.make_certificates(folder)
        self.w = self.world()
        self.receiver = Receiver(self.w, folder / "host.crt", folder / "host.key")
        hook = {"url": self.receiver.url, "max_delay": "10ms", "ca_file": str(folder / "ca.crt"), **hook}
        self.w.relay.write_config(events={"webhooks": [{k: v for k, v in hook.items() if v is not None}]})
        self.domain, _ = self.w.domain("one", *(behaviours or ("good",)))
        self.relay = self.w.start()

    def test_events_come_with_the_token_and_again_after_a_failure(self) -> None:
        token = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "token"
        token.write_text("s3cret\n")
        self.start(token_file=str(token))
        self.receiver.status = 500
        self.send("m1")
        self.relay.wait_logged("webhook_failed")
        self.receiver.status = 200
        self.receiver.wait_taken(1)
        self.assertEqual(set(self.receiver.tokens), {"Bearer s3cret"})

    def test_a_certificate_of_nobody_we_trust_gets_no_events_and_holds_no_mail(self) -> None:
        self.start(ca_file=None)
        self.send("m1")
        self.w.wait_accepted("m1")
        self.assertIn("certificate", self.relay.wait_logged("webhook_failed")[0]["text"])
        self.assertEqual(self.receiver.requests, [])

    def test_a_name_that_is_not_the_certificates_gets_no_events(self) -> None:
        self.start()
        hook = dict(self.relay.config["events"]["webhooks"][0])
        hook["url"] = hook["url"].replace("localhost", "127.0.0.1")
        self.relay.write_config(events={"webhooks": [hook]})
        self.relay.restart()
        self.send("m1")
        self.relay.wait_logged("webhook_failed")
        self.assertEqual(self.receiver.requests, [])

    def test_without_verification_any_certificate_will_do(self) -> None:
        self.start(ca_file=None, verify_tls=False)
        self.send("m1")
        self.receiver.wait_taken(1)


class Mistakes(E2ETest):
    limit_s = 20

    def test_a_wrong_webhook_is_refused_with_its_line(self) -> None:
        from harness import onward
        world = self.world()
        path = world.folder / "bad.yaml"
        for hook, word in (("{url: \"ftp://x\"}", "URL"), ("{events: [delivered]}", "incomplete"),
                           ("{url: \"http://x/\", events: [opened]}", "bounced"),
                           ("{url: \"http://x/\", batch_size: 0}", "out of range")):
            path.write_text(f"hostname: relay.example.net\nevents:\n  webhooks:\n    - {hook}\n")
            done = onward("check-config", path)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(f"{path}:4: events.webhooks", done.stderr)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    main()
