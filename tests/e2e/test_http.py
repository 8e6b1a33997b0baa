"""HTTP: what a balancer, Prometheus, operators and senders ask, and mail that is injected, read back by Python's email
package, which we did not write."""

from __future__ import annotations

import base64
import email
import email.header
import email.message
import email.policy
import email.utils
import gzip
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import threading
import time
from typing import Any

from harness import (BINARY, E2ETest, ORIGIN, Ports, Process, SANITIZED, UnixConnection, World, main, scaled, stays, tool,
                     wait_until)
from test_exhaustion import ALLOCATIONS, Faults

SENDER = f"noreply@postbox.{ORIGIN}"
TOKENS = {"mailer": ("inject", "m" * 32), "monitor": ("read", "r" * 32), "chief": ("admin", "c" * 32)}
SECONDS = 120


class HttpTest(E2ETest):
    """A relay with a unix socket, a TCP listener and tokens."""

    def http_world(self, **http_config: Any) -> World:
        world = self.world()
        self.port = Ports.take()
        tokens = world.folder / "tokens"
        tokens.write_text("# who may do what\n" + "".join(f"{name} {scopes} {token}\n"
                                                          for name, (scopes, token) in TOKENS.items()))
        os.chmod(tokens, 0o600)
        self.socket = str(world.folder / "http.sock")
        config = {"listen": [{"socket": self.socket}, {"address": f"127.0.0.1:{self.port}"}],
                  "token_file": str(tokens), **http_config}
        world.relay.write_config(http=config)
        return world

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None,
            token: str | None = None) -> tuple[int, Any, http.client.HTTPMessage]:
        """Over TCP with a token of TOKENS (or none: ""), over the unix socket where none is named."""
        connection = UnixConnection(self.socket) if token is None else \
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        fields = dict(headers or {})
        if token:
            fields["Authorization"] = f"Bearer {TOKENS.get(token, ('', token))[1]}"
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        try:
            connection.request(method, path, data, fields)
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(text) if is_json and text else text.decode(), answer.headers
        finally:
            connection.close()

    def start(self, world: World) -> World:
        """Starts the relay, or starts it again, and waits until it takes mail."""
        if world.relay.starts == 0:
            world.start()
        elif world.relay.process is None:
            world.relay.start()
        else:
            world.relay.restart()
        wait_until(lambda: self.ask("GET", "/readyz")[0] == 200, "/readyz to say yes")
        return world

    def inject(self, recipients: list[Any], content: Any, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        status, answer, _ = self.ask("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": recipients,
                                                               "content": content, **more}, headers)
        self.assertEqual(status, 200, answer)
        return answer


# ---- what is asked ----


class Asking(HttpTest):
    """Checks, figures, operations, and who may."""

    def test_probes_metrics_and_operations(self) -> None:
        began = time.monotonic()
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        relay = self.start(world).relay
        self.assertEqual(self.ask("GET", "/livez", token="")[:2], (200, {"live": True}))
        self.assertEqual(self.ask("GET", "/readyz", token="")[:2], (200, {"ready": True, "reason": "open"}))
        self.assertEqual(self.ask("HEAD", "/readyz", token="")[0], 200)
        relay.send(SENDER, [f"r@{domain}"], "one")
        world.wait_accepted("one")
        relay.wait_logged("delivered")
        wait_until(lambda: '{outcome="delivered"} 1\n' in self.ask("GET", "/metrics")[1], "the delivery to be counted")
        relay.wait_drained()
        wait_until(lambda: re.search(r"^onward_spool_commit_seconds_count [2-9]", self.ask("GET", "/metrics")[1], re.M),
                   "its commits to be counted")
        status, text, headers = self.ask("GET", "/metrics", token="")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
        check = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True,
                               check=False)
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "", ""))
        self.assertIn("\nonward_smtp_messages_accepted_total 1\n", text)
        self.assertIn('\nonward_recipient_attempts_total{outcome="delivered"} 1\n', text)
        self.check_histograms(text, time.monotonic() - began)
        self.check_operations(world, domain)

    def check_histograms(self, text: str, all_took: float) -> None:
        """One message was accepted, routed, and delivered over one session: no step of it took longer than all of it."""
        for name, labels, least in (("delivery", 'priority="bulk"', 1), ("delivery", 'priority="transactional"', 0),
                                    ("session_setup", "", 1), ("spool_commit", "", 2), ("dns_flight", "", 1)):
            with self.subTest(histogram=name, labels=labels):
                inside = labels + "," if labels else ""
                buckets = [int(n) for n in re.findall(rf'^onward_{name}_seconds_bucket{{{inside}le="[^"]+"}} (\d+)$', text,
                                                      re.M)]
                behind = re.escape("{" + labels + "}") if labels else ""
                count, total = (float(re.search(rf"^onward_{name}_seconds_{part}{behind} ([\d.]+)$", text, re.M).group(1))
                                for part in ("count", "sum"))
                self.assertEqual(buckets, sorted(buckets))
                self.assertGreater(len(buckets), 10)
                self.assertEqual(buckets[-1], count)
                self.assertGreaterEqual(count, least)
                self.assertEqual(count, least if name == "delivery" else count)
                self.assertLess(total, count * all_took + 1e-6)

    def check_operations(self, world: World, domain: str) -> None:
        status, route, _ = self.ask("GET", f"/api/control/route?domain={domain}", token="monitor")
        self.assertEqual((status, route["domain"], route["items"][0]["exchange"]), (200, domain, f"mx1.{domain}"))
        held = self.ask("POST", "/api/control/queue.hold", {"all": True}, token="chief")
        self.assertEqual(held[:2], (200, {"matched": 0, "items": []}))
        health = self.ask("POST", "/api/control/health.demote", {"address": "192.0.2.1"}, token="chief")
        self.assertEqual(health[0], 200)
        listed = self.ask("GET", "/api/control/health.list", token="monitor")[1]["items"]
        self.assertIn(("192.0.2.1", "demoted"), [(item["address"], item["state"]) for item in listed])
        same = world.relay.json("health")
        self.assertEqual({item["address"] for item in listed}, {item["address"] for item in same})

    def test_each_token_may_do_what_its_scope_says(self) -> None:
        world = self.http_world()
        self.start(world)
        mail = {"envelope_sender": SENDER, "recipients": [{"email": "nobody"}], "content": "Subject: x\n\nx\n"}
        for token, inject, read, change in (("", 401, 401, 401), ("wrong-token-of-some-length", 401, 401, 401),
                                            ("mailer", 200, 403, 403), ("monitor", 403, 200, 403),
                                            ("chief", 200, 200, 200)):
            with self.subTest(token=token):
                got = (self.ask("POST", "/api/inject/v1", mail, token=token)[0],
                       self.ask("GET", "/api/control/queue.list", token=token)[0],
                       self.ask("POST", "/api/control/queue.retry", {"all": True}, token=token)[0])
                self.assertEqual(got, (inject, read, change))
        for secret in [token for _, token in TOKENS.values()] + ["wrong-token"]:
            self.assertNotIn(secret, world.relay.log_path.read_text())

    def test_what_is_wrong_is_told(self) -> None:
        world = self.http_world(body_size_max="100KB")
        self.start(world)
        for method, path, body, wanted, words in (
                ("GET", "/nowhere", None, 404, "nothing is served"),
                ("PUT", "/readyz", None, 405, "not for"),
                ("GET", "/api/control/queue.hold", None, 404, "POST"),
                ("GET", "/api/control/queue.list?limt=3", None, 400, "limt"),
                ("POST", "/api/control/queue.hold", b"[]", 400, "JSON object"),
                ("POST", "/api/control/queue.hold", {}, 400, "exactly one"),
                ("POST", "/api/inject/v1", b"{", 400, "line 1"),
                ("POST", "/api/inject/v1", b"", 400, "the body is empty"),
                ("POST", "/api/inject/v1", {"recipients": []}, 400, "envelope_sender"),
                ("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": [], "content": "x"}, 400,
                 "recipients"),
                ("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": [{"email": 3}], "content": "x"},
                 400, "recipients[0]"),
                ("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": [{"email": "a@b"}],
                                            "content": {"html_bdy": "x"}}, 400, "html_bdy"),
                ("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": [{"email": "a@b"}],
                                            "content": {"text_body": "{% if x %}"}}, 400, "template_dialect"),
                ("POST", "/api/inject/v1", b"[" * 100001, 413, "body_size_max"),
                ("POST", "/api/inject/v1", b"[" * 90000, 400, "line 1")):
            with self.subTest(path=path, body=str(body)[:60]):
                status, answer, _ = self.ask(method, path, body)
                self.assertEqual((status, words in answer["error"]), (wanted, True), answer)
        for data, wanted in ((gzip.compress(b" " * 10_000_000), 413), (gzip.compress(b"{}")[:-6], 400),
                             (b"no gzip", 400)):
            self.assertEqual(self.ask("POST", "/api/inject/v1", data, {"Content-Encoding": "gzip"})[0], wanted)
        self.assertEqual(self.ask("POST", "/api/inject/v1", b"x", {"Content-Encoding": "br"})[0], 415)
        long = self.inject([{"email": "x" + "é" * 400}], "Subject: x\n\nx\n")  # cut for the list of errors, between characters
        self.assertRegex(long["errors"][0], "^xé{149}: not a mail address")

    def test_where_a_body_ends_is_beyond_doubt(self) -> None:
        """What a balancer in front and the relay would see end at different places is refused, and the connection closed."""
        world = self.http_world()
        self.start(world)
        hidden = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        for fields, body, wanted in (
                (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
                (b"Content-Length: 2\r\nContent-Length: 40\r\n", b"{}", 400),
                (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n", 501),
                (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n", 501)):
            with self.subTest(fields=fields), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(SECONDS)
                sock.connect(self.socket)
                sock.sendall(b"POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n" + body + hidden)
                answer = b""
                try:
                    while part := sock.recv(65536):
                        answer += part
                except ConnectionResetError:
                    pass  # behind the answer: what followed was not read
                self.assertEqual(re.findall(rb"^HTTP/1.1 (\d+)", answer, re.M), [str(wanted).encode()])

    def test_a_request_may_name_the_relay(self) -> None:
        self.start(self.http_world())
        for target, wanted in (("http://relay.example/livez", 200), ("http://relay.example", 200), ("http:/livez", 404)):
            with self.subTest(target=target):
                self.assertEqual(self.ask("GET", target, token="")[0], wanted)

    def test_a_compressed_body_of_any_length_is_read(self) -> None:
        """65,536 bytes are what is inflated at a time: the end of the stream comes with the last of them."""
        world = self.http_world()
        self.start(world)
        mail = json.dumps({"envelope_sender": SENDER, "recipients": [{"email": "nobody"}], "content": "Subject: x\n\nx\n"})
        for length in (65535, 65536, 65537, 131072, 1 << 20):
            with self.subTest(length=length):
                body = gzip.compress(mail.ljust(length).encode())
                self.assertEqual(self.ask("POST", "/api/inject/v1", body, {"Content-Encoding": "gzip"})[0], 200)

    def test_an_answer_is_given_whole_before_a_relay_that_was_asked_to_end_ends(self) -> None:
        world = self.http_world()
        self.start(world)
        mail = json.dumps({"envelope_sender": SENDER, "recipients": [{"email": f"{n:0200}"} for n in range(50000)],
                           "content": "Subject: x\n\nx\n"}).encode()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(self.socket)
            sock.sendall(b"POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(mail))
            sock.sendall(mail)
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert world.relay.process is not None
            world.relay.process.signal(signal.SIGTERM)
            wait_until(lambda: self.ask("GET", "/readyz", token="")[1]["reason"] == "draining", "the relay to drain")
            self.assertTrue(stays(world.relay.process.running, 1))
            self.assertEqual(json.loads(answer.read())["fail_count"], 50000)
        world.relay.process.wait()

    def test_a_request_that_is_on_its_way_when_the_relay_ends_has_its_answer(self) -> None:
        world = self.http_world()
        self.start(world)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(self.socket)
            sock.sendall(b"POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
            wait_until(lambda: "onward_http_body_bytes 4096" in self.ask("GET", "/metrics")[1], "the head to be read")
            assert world.relay.process is not None
            world.relay.process.signal(signal.SIGTERM)
            world.relay.wait_logged("draining")
            self.assertTrue(stays(world.relay.process.running, 0.2))
            sock.sendall(b"}")
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            self.assertEqual((answer.status, "shutting down" in json.loads(answer.read())["error"]), (503, True))
        world.relay.process.wait()

    def test_a_drain_and_a_full_disk_are_told_to_balancers_and_senders(self) -> None:
        world = self.http_world()
        domain, [address] = world.domain("one", "silent@DATA")
        world.relay.write_config(spool={"free_floor": "100TB"}, drain_timeout="10m")
        world.start()
        wait_until(lambda: self.ask("GET", "/readyz")[1]["reason"] != "starting", "the relay to be up")
        status, answer, headers = self.ask("GET", "/readyz", token="")
        self.assertEqual((status, answer["reason"]), (503, "no_room"))
        self.assertIn("Retry-After", headers)
        mail = {"envelope_sender": SENDER, "recipients": [{"email": f"r@{domain}"}], "content": "Subject: x\n\nx\n"}
        status, answer, headers = self.ask("POST", "/api/inject/v1", mail)
        self.assertEqual((status, "Retry-After" in headers), (503, True), answer)
        world.relay.write_config(spool={"free_floor": "1MB"})
        self.start(world)
        self.inject([{"email": f"r@{domain}"}], "Subject: x\n\nx\n")
        wait_until(lambda: world.exchanges.commands(address, "DATA"), "a transaction that does not end")
        assert world.relay.process is not None
        world.relay.process.signal(signal.SIGTERM)
        wait_until(lambda: self.ask("GET", "/readyz", token="")[1] == {"ready": False, "reason": "draining"},
                   "/readyz to say that it drains")
        self.assertEqual(self.ask("GET", "/livez", token="")[0], 200)
        self.assertEqual(self.ask("POST", "/api/inject/v1", mail)[0], 503)
        world.relay.process.signal(signal.SIGTERM)  # now

    def test_a_relay_that_starts_and_one_that_sheds_load_are_told_to_balancers(self) -> None:
        world = self.http_world()
        flag = world.folder / "busy"
        flag.touch()
        domain, _ = world.domain("one", f"reply@MAIL=450 4.7.1 Not now;while={flag}")
        world.relay.write_config(spool={"messages_max": 1}, retry={"first": "1m"})
        self.start(world)
        world.relay.send(SENDER, [f"r@{domain}"], "one")
        wait_until(lambda: self.ask("GET", "/readyz", token="")[:2] == (503, {"ready": False, "reason": "queue_full"}),
                   "/readyz to say that the queue is full")
        world.relay.terminate()
        suspended = pathlib.Path(world.relay.config["spool"]["path"]) / "suspended"
        suspended.unlink(missing_ok=True)
        os.mkfifo(suspended)  # the relay reads it as it starts, and waits for whoever writes
        world.relay.write_config(spool={"messages_max": 100})
        world.relay.process = Process([BINARY, "serve", "-c", world.relay.config_path], world.folder, "starting",
                                      world.relay.env)
        wait_until(lambda: self.answers("/livez"), "HTTP to be served")
        status, answer, headers = self.ask("GET", "/readyz", token="")
        self.assertEqual((status, answer), (503, {"ready": False, "reason": "starting"}))
        self.assertIn("Retry-After", headers)
        suspended.write_bytes(b"")
        wait_until(lambda: self.ask("GET", "/readyz", token="")[0] == 200, "the relay to be ready")
        flag.unlink()
        world.relay.run("queue", "retry", "--all")
        world.wait_accepted("one")

    def answers(self, path: str) -> bool:
        try:
            return self.ask("GET", path, token="")[0] == 200
        except OSError:
            return False

    def test_tls_and_a_token_file_that_others_can_read(self) -> None:
        world = self.http_world()
        port = Ports.take()
        cert, key = world.folder / "cert.pem", world.folder / "key.pem"
        subprocess.run([tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                        "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
        world.relay.write_config(http={"listen": [{"socket": self.socket}, {"address": f"127.0.0.1:{port}", "tls": True}],
                                       "tls_certificate": str(cert), "tls_key": str(key)})
        self.start(world)
        done = subprocess.run([tool("curl"), "-s", "--max-time", str(SECONDS), "--cacert", cert, "--resolve",
                               f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/livez"], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.stdout, '{"live":true}\n', done.stderr)
        world.relay.terminate()
        os.chmod(world.folder / "tokens", 0o644)
        process = Process([BINARY, "serve", "-c", world.relay.config_path], world.folder,
                          "refused")
        self.assertNotEqual(process.wait(), 0)
        self.assertIn("chmod 640", process.stderr())
        world.relay.write_config(http={"token_file": str(self.folder_for_nobody_else(world))})
        process = Process([BINARY, "serve", "-c", world.relay.config_path], world.folder, "no-file")
        self.assertNotEqual(process.wait(), 0)
        self.assertIn("cannot read http.token_file", process.stderr())
        world.relay.write_config(http={"token_file": str(world.folder / "tokens")})
        os.chmod(world.folder / "tokens", 0o600)
        self.start(world)

    def folder_for_nobody_else(self, world: World) -> pathlib.Path:
        """It can be opened, but not read as a file."""
        folder = world.folder / "tokens.d"
        folder.mkdir(mode=0o700)
        return folder


# ---- content, read back ----

WORDS = ("hello", "Grüße", "naïve", "Привет", "日本語テスト", "שלום", "👩‍👩‍👧 emoji", "e\u0301", "a=b", "=?utf-8?q?no=20word?=",
         "\"quoted\"", "back\\slash", "<tag>", "&amp;", "comma, semi; colon:", "{brace}", "(comment)", "x" * 70, "y" * 400,
         "ü" * 200, "z" * 1200, "two  spaces", "tail", "'", "a.b@c", "%41", "[x]")
LINES = ("", ".", "..", ".x", "From here", "--=_0", "trailing ", "\ttab", "=", "=20", "x" * 998, "x" * 999, "x" * 76, "x" * 77,
         "ü" * 1000, " ", "last", "\x0c feed", "日本" * 40, "<b>&", "a\u2028b", "q=" * 38)


class Generator:
    """Texts of many kinds from one seed, which a failing test prints."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def words(self, most: int = 6) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(self.random.randrange(1, most))).strip()

    def lines(self) -> str:
        ends = ("\n", "\r\n", "\r") if self.random.random() < 0.2 else ("\n",)
        return "".join(self.random.choice(LINES) + self.random.choice(ends)
                       for _ in range(self.random.randrange(1, 12)))

    def attachment(self) -> dict[str, Any]:
        data = self.random.randbytes(self.random.randrange(0, 300))
        name = self.random.choice(("a.bin", "répört.pdf", "日本語.txt", "long " * 30 + ".txt", 'q"u\\o.te', "ü" * 60 + ".x"))
        made: dict[str, Any] = {"data": base64.b64encode(data).decode(), "base64": True,
                                "content_type": "application/octet-stream", "file_name": name}
        if self.random.random() < 0.4:
            made["content_id"] = f"cid{self.random.randrange(1000)}"
        return made


def plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def mailboxes(raw: bytes, field: str) -> list[tuple[str, str]]:
    """Names and addresses of a field. The newer parser of Python 3.11 keeps the white space between two encoded words
    of a name, which RFC 2047 6.2 drops; the older one does not."""
    message = email.message_from_bytes(raw)
    values = [str(value).replace("\r\n", "") for value in message.get_all(field, [])]
    return [(str(email.header.make_header(email.header.decode_header(name))), address)
            for name, address in email.utils.getaddresses(values)]


def as_lines(text: str) -> str:
    """One line end, and one at the end: what a text part keeps."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") or not text else text + "\n"


class ReadBack(HttpTest):
    """Whatever is injected, a parser that is not ours reads again."""

    limit_s = 120

    def collect(self, world: World, count: int) -> dict[str, tuple[email.message.EmailMessage, bytes]]:
        """The messages that arrived, by recipient."""
        wait_until(lambda: len(world.exchanges.accepted()) >= count, f"{count} messages", limit=300, pause=0.1)
        found = {}
        for record in world.exchanges.accepted():
            raw = world.exchanges.content(record)
            parsed = email.message_from_bytes(raw, policy=email.policy.default)
            for recipient in record["recipients"]:
                self.assertNotIn(recipient, found, "delivered twice")
                found[recipient] = (parsed, raw)
        return found  # type: ignore[return-value]

    def check_wire(self, raw: bytes) -> None:
        """7 bits, CRLF only, no line too long, header lines folded."""
        self.assertNotRegex(raw, rb"[\x80-\xff\x00]|\r(?!\n)|(?<!\r)\n")
        self.assertLessEqual(max(len(line) for line in raw.split(b"\r\n")), 998)
        for line in raw.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
            self.assertRegex(line, rb"^([!-9;-~]+: ?|[ \t]+)\S|^[!-9;-~]+:$")
            self.assertLessEqual(len(line), 998)
            if b"=?utf-8?" in line:
                self.assertLessEqual(len(line), 76)

    def check_header(self, message: email.message.EmailMessage, name: str, wanted: str) -> None:
        self.assertEqual(len(message.get_all(name)), 1)
        self.assertEqual(str(message[name]), wanted)
        self.assertEqual(list(message[name].defects), [])

    def test_generated_content_of_every_kind(self) -> None:
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        self.start(world)
        seed = int(os.environ.get("ONWARD_TEST_SEED", random.randrange(1 << 30)))
        cases = [self.make_case(Generator(seed + n), n, domain) for n in range(scaled(500))]
        for case in cases:
            answer = self.inject([case["recipient"]], case["content"], substitutions={"all": case["all"]})
            self.assertEqual(answer["success_count"], 1, (seed, answer, case))
        found = self.collect(world, len(cases))
        for case in cases:
            with self.subTest(seed=seed, case=case["recipient"]["email"]):
                self.check_case(case, *found[case["recipient"]["email"]])

    def make_case(self, g: Generator, number: int, domain: str) -> dict[str, Any]:
        parts = g.random.choice((("text",), ("html",), ("text", "html"), ("text", "html", "amp")))
        recipient = {"email": f"r{number}@{domain}", "name": g.words(4), "substitutions": {"own": g.words(), "body": g.lines()}}
        literal = g.words(3).replace("=?", "").replace("{", "").strip() or "x"
        content: dict[str, Any] = {
            "subject": f"{literal} {{{{own}}}} {{{{ all }}}}",
            "from": {"email": f"from@postbox.{ORIGIN}", "name": g.words(4).replace("=?", "")},
            "headers": {"X-Note": "{{own}}", "X-Plain": "a {{ missing }}b"},
            "attachments": [g.attachment() for _ in range(g.random.randrange(3))],
        }
        case = {"recipient": recipient, "content": content, "all": g.words(), "literal": literal}
        for part in parts:
            before = g.lines().replace("{", "")
            case[part] = before
            content[{"text": "text_body", "html": "html_body", "amp": "amp_html_body"}[part]] = before + "{{body}}"
        return case

    def check_case(self, case: dict[str, Any], message: email.message.EmailMessage, raw: bytes) -> None:
        own, body = (case["recipient"]["substitutions"][key] for key in ("own", "body"))
        self.check_wire(raw)
        self.check_header(message, "Subject", f"{case['literal']} {own} {case['all']}")
        self.check_header(message, "X-Note", own)
        self.check_header(message, "X-Plain", "a b")
        for field in ("Date", "Message-ID", "MIME-Version", "Received"):
            self.assertEqual(len(message.get_all(field)), 1, field)
        for field, name, address in (("From", case["content"]["from"]["name"], f"from@postbox.{ORIGIN}"),
                                     ("To", case["recipient"]["name"], case["recipient"]["email"])):
            self.assertEqual(mailboxes(raw, field), [(name, address)])
            self.assertEqual([a.addr_spec for a in message[field].addresses], [address])
        self.check_bodies(case, message, body)
        self.check_attachments(case, message)
        self.assertEqual([part.defects for part in message.walk() if part.defects], [])

    def check_bodies(self, case: dict[str, Any], message: email.message.EmailMessage, body: str) -> None:
        texts = {part.get_content_type(): part for part in message.walk()
                 if part.get_content_maintype() == "text" and part.get_filename() is None}
        escaped = body.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;") \
            .replace("'", "&#39;")
        for kind, of_type, value in (("text", "text/plain", body), ("html", "text/html", escaped),
                                     ("amp", "text/x-amp-html", escaped)):
            self.assertEqual(kind in case, of_type in texts)
            if kind in case:
                got = texts[of_type].get_payload(decode=True).decode("utf-8")
                self.assertEqual(plain(got), as_lines(case[kind] + value), kind)

    def check_attachments(self, case: dict[str, Any], message: email.message.EmailMessage) -> None:
        got = sorted((part.get_filename(), part.get_payload(decode=True), part["Content-ID"] or "") for part in message.walk()
                     if part.get_content_type() == "application/octet-stream")
        wanted = sorted((a["file_name"], base64.b64decode(a["data"]), f"<{a['content_id']}>" if "content_id" in a else "")
                        for a in case["content"]["attachments"])
        self.assertEqual(got, wanted)
        inline = any("content_id" in a for a in case["content"]["attachments"])
        types = [part.get_content_type() for part in message.walk()]
        self.assertEqual("multipart/related" in types, inline and "html" in case)
        self.assertEqual("multipart/alternative" in types, sum(kind in case for kind in ("text", "html", "amp")) > 1)

    def test_raw_messages(self) -> None:
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        self.start(world)
        original = email.message.EmailMessage()
        original["From"] = f"Ä <from@postbox.{ORIGIN}>"
        original["To"] = "Jürgen {{name}} <{{email}}>"
        original["Subject"] = "Grüße an {{name}}"
        original.set_content("Hällo {{name}},\n" + "lang " * 100 + "\n{{code}}\n", cte="quoted-printable")
        original.add_alternative("<p>Hällo {{name}}</p>\n" + "ü" * 500 + "\n", subtype="html", cte="base64")
        original.add_attachment(b"\0\1{{name}}", maintype="application", subtype="octet-stream", filename="ä.bin")
        raw = {
            "plain": "Subject: hello\nFrom: a@postbox.example\n\nHello there\n",
            "to": "To: \"{{ name }}\" <{{ email }}>\nFrom: a@postbox.example\nSubject: hello\nBcc: hidden@x.example\n\n"
                  "Hello {{ name }}!\n",
            "bits": "Subject: Grüße {{name}}\nFrom: Jörg <a@postbox.example>\n\nHällo {{name}}\n",
            "bare": "{{name}} has no header",
            "mime": original.as_string(policy=email.policy.SMTP),
        }
        name = "Ann \"Ö\" <b>"
        for key, content in raw.items():
            self.inject([{"email": f"{key}@{domain}", "name": name, "substitutions": {"code": 7}}], content)
        found = {key.split("@")[0]: value for key, value in self.collect(world, len(raw)).items()}
        for key, (_, wire) in found.items():
            with self.subTest(raw=key):
                self.check_wire(wire)
        self.assertEqual(plain(found["plain"][0].get_content()), "Hello there\n")
        self.assertEqual(mailboxes(found["to"][1], "To"), [(name, f"to@{domain}")])
        self.assertEqual((plain(found["to"][0].get_content()), found["to"][0]["Bcc"]), (f"Hello {name}!\n", None))
        self.assertEqual((str(found["bits"][0]["Subject"]), plain(found["bits"][0].get_content())),
                         (f"Grüße {name}", f"Hällo {name}\n"))
        self.assertEqual(plain(found["bare"][0].get_content()), f"{name} has no header\n")
        self.assertEqual(mailboxes(found["mime"][1], "To"), [(f"Jürgen {name}", f"mime@{domain}")])
        self.check_mime(found["mime"][0], name)

    def check_mime(self, message: email.message.EmailMessage, name: str) -> None:
        self.assertEqual(str(message["Subject"]), f"Grüße an {name}")
        text, html = message.get_body(("plain",)), message.get_body(("html",))
        self.assertEqual(plain(text.get_content()), f"Hällo {name},\n" + "lang " * 100 + "\n7\n")
        self.assertEqual(plain(html.get_content()),
                         "<p>Hällo Ann &quot;Ö&quot; &lt;b&gt;</p>\n" + "ü" * 500 + "\n")
        attachment = next(message.iter_attachments())
        self.assertEqual((attachment.get_filename(), attachment.get_content()), ("ä.bin", b"\0\1{{name}}"))

    def test_no_value_makes_a_field(self) -> None:
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        self.start(world)
        evil = ("x\r\nBcc: y@z.example", "x\ny", "x\ry", "x\x01", "\x7f", "\x0b")
        content = {"subject": "s {{v}}", "text_body": "t", "headers": {"X-A": "{{v}}", "From": "\"{{v}}\" <a@b.example>"}}
        answer = self.inject([{"email": f"e{n}@{domain}", "substitutions": {"v": v}} for n, v in enumerate(evil)], content)
        self.assertEqual((answer["success_count"], answer["fail_count"]), (0, len(evil)))
        self.assertIn("line break or control character", answer["errors"][0])
        odd = ("a@b.example, c@d.example", "x> <y@z.example", "a,b@c.example", "\"", "a b@c.example", "(x", "a@b.example;")
        answer = self.inject([{"email": f"o{n}@{domain}", "substitutions": {"v": v}} for n, v in enumerate(odd)],
                             {"text_body": "t", "headers": {"Reply-To": "{{v}}", "From": "<a@b.example>"}})
        self.assertEqual(answer["success_count"], 0, answer)
        mild = ('"', "\\", '\\"', "a@b.example, c@d.example", "=?utf-8?q?x?=", "<x@y.example>", "(", ";:", "ü,\"")
        answer = self.inject([{"email": f"m{n}@{domain}", "substitutions": {"v": v}} for n, v in enumerate(mild)],
                             {"text_body": "t", "headers": {"From": "{{v}} <a@b.example>", "List-Unsubscribe":
                                                            "<https://x.example/?q={{v}}>"}})
        self.assertEqual(answer["fail_count"], 0, answer)
        for recipient, (message, raw) in self.collect(world, len(mild)).items():
            with self.subTest(recipient=recipient):
                self.check_wire(raw)
                value = mild[int(recipient.split("@")[0][1:])]
                self.assertEqual(mailboxes(raw, "From"), [(value, "a@b.example")])
                self.assertRegex(str(message["List-Unsubscribe"]), r"^<https://x\.example/\?q=[!-;=?-~]*>$")

    def test_internationalized_addresses_are_marked_for_the_exchange(self) -> None:
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        self.start(world)
        self.inject([{"email": f"jürgen@{domain}", "name": "Jürgen"}], {"subject": "s", "text_body": "t"})
        record = wait_until(lambda: world.exchanges.accepted(), "the message")[0]
        self.assertEqual(record["recipients"], [f"jürgen@{domain}"])
        address = next(iter(world.exchanges.behaviours))
        self.assertIn("SMTPUTF8", world.exchanges.commands(address, "MAIL")[0])


# ---- mailings ----


class Mailings(HttpTest):
    """Many recipients, retries, and load."""

    limit_s = 180

    def test_ten_thousand_messages_by_one_call(self) -> None:
        world = self.http_world()
        address = world.address()
        domain = world.mx("one", address)
        sink = world.sink(address)
        self.start(world)
        count = scaled(10000)
        recipients = [{"email": f"r{n}@{domain}", "name": f"Näme {n}", "substitutions": {"code": f"c{n * 7919}"}}
                      for n in range(count)]
        body = json.dumps({"envelope_sender": SENDER, "recipients": recipients, "content": {
            "subject": "For {{name}}", "text_body": "Dear {{name}}, your code is {{code}}.\n" + "text " * 1000 + "\n",
            "html_body": "<p>{{name}}: {{code}}</p>"}}).encode()
        status, answer, _ = self.ask("POST", "/api/inject/v1", gzip.compress(body), {"Content-Encoding": "gzip"},
                                     token="mailer")
        self.assertEqual((status, answer["success_count"], answer["fail_count"]), (200, count, 0))
        self.assertEqual(len({entry["id"] for entry in answer["recipients"]}), count)
        wait_until(lambda: sum(1 for _ in sink.folder.iterdir()) >= count, "all messages", limit=600, pause=0.5)
        wait_until(lambda: self.ask("GET", "/api/control/status")[1]["spool"]["messages_queued"] == 0, "an empty queue")
        seen = set()
        for path in sink.folder.iterdir():
            message = email.message_from_bytes(self.of_dump(path.read_bytes()))  # the older parser: it is fast
            number = int(email.utils.parseaddr(message["To"])[1].partition("@")[0][1:])
            seen.add(number)
            text, html = (part.get_payload(decode=True).decode() for part in message.get_payload())
            self.assertEqual(str(email.header.make_header(email.header.decode_header(message["Subject"]))),
                             f"For Näme {number}")
            self.assertTrue(text.startswith(f"Dear Näme {number}, your code is c{number * 7919}.\n"), text[:100])
            self.assertEqual(html.strip(), f"<p>Näme {number}: c{number * 7919}</p>")
        self.assertEqual(len(seen), count)

    @staticmethod
    def of_dump(dump: bytes) -> bytes:
        """smtp-sink puts X- lines and a Received of its own before the message."""
        return dump[dump.index(b"Received: from mailer"):]

    def test_a_repeated_request_doubles_nothing(self) -> None:
        world = self.http_world()
        domain, _ = world.domain("one", "good")
        self.start(world)
        recipients = [{"email": f"r{n}@{domain}"} for n in range(50)] + [{"email": "broken"}]
        key = {"Idempotency-Key": "mailing-1"}
        first = self.inject(recipients, "Subject: x\n\nx\n", key)
        again = self.inject(recipients, "Subject: x\n\nx\n", key)
        self.assertEqual((first["success_count"], first), (50, again))
        other = self.ask("POST", "/api/inject/v1", {"envelope_sender": SENDER, "recipients": recipients[:3],
                                                    "content": "x"}, key)
        self.assertEqual(other[0], 422, other[1])
        self.assertEqual(self.inject(recipients, "Subject: x\n\nx\n", {"Idempotency-Key": "mailing-2"})["success_count"], 50)
        wait_until(lambda: len(world.exchanges.accepted()) >= 100, "both mailings")
        self.start(world)
        self.assertEqual(self.inject(recipients, "Subject: x\n\nx\n", key), first)
        self.assertTrue(stays(lambda: len(world.exchanges.accepted()) == 100, 0.5))

    def test_a_mailing_cut_off_by_a_crash_is_completed_and_doubled_nowhere(self) -> None:
        count = scaled(20000)
        key = {"Idempotency-Key": "cut"}
        for _ in range(5):  # a test that stands still for too long cuts nothing off
            world, body = self.cut_off(count, key)
            stored = self.queued()
            if stored < count:
                break
        self.assertGreater(stored, 0)
        status, answer, _ = self.ask("POST", "/api/inject/v1", body, key)
        self.assertEqual((status, answer["success_count"]), (200, count))
        wait_until(lambda: self.queued() == count, "each recipient to be queued once")
        text = self.ask("GET", "/metrics")[1]
        repeated = int(re.search(r"^onward_http_recipients_repeated_total (\d+)$", text, re.M)[1])
        self.assertGreaterEqual(repeated, stored)
        self.assertLess(repeated, count)

    def cut_off(self, count: int, key: dict[str, str]) -> tuple[World, bytes]:
        """A relay that was killed in the middle of a mailing, and started again; the mailing."""
        world = self.http_world()
        domain = world.mx("one", world.silent_address())  # nothing leaves the queue
        self.start(world)
        recipients = [{"email": f"r{n}@{domain}"} for n in range(count)]
        body = json.dumps({"envelope_sender": SENDER, "recipients": recipients,
                           "content": "Subject: x\n\n" + "text\n" * 400}).encode()
        caller = threading.Thread(target=self.ask_in_vain, args=(body, key))
        caller.start()
        wait_until(lambda: self.queued() > count // 10, "a part of the mailing to be stored")
        world.relay.kill()
        caller.join()
        self.start(world)
        return world, body

    def ask_in_vain(self, body: bytes, key: dict[str, str]) -> None:
        try:
            self.ask("POST", "/api/inject/v1", body, key)
        except (OSError, http.client.HTTPException):
            pass

    def queued(self) -> int:
        return self.ask("GET", "/api/control/status")[1]["spool"]["messages_queued"]

    def test_a_caller_over_its_rate_waits(self) -> None:
        world = self.http_world(recipients_per_second=2)  # 150 seconds
        domain, _ = world.domain("one", "good")
        self.start(world)
        mail = {"envelope_sender": SENDER, "recipients": [{"email": f"r{n}@{domain}"} for n in range(300)],
                "content": "Subject: x\n\nx\n"}
        self.assertEqual(self.ask("POST", "/api/inject/v1", mail, token="mailer")[0], 200)
        status, answer, headers = self.ask("POST", "/api/inject/v1", mail, token="mailer")
        self.assertEqual((status, 1 <= int(headers["Retry-After"]) <= 151), (429, True), answer)
        self.assertEqual(self.ask("POST", "/api/inject/v1", mail, token="chief")[0], 200)

    def test_slow_clients_slow_no_mail_and_are_ended(self) -> None:
        world = self.http_world(request_timeout="3s", idle_timeout="3s", connections_max=50)
        domain, _ = world.domain("one", "good")
        self.start(world)
        alone = self.time_of_twenty(world, domain, "alone")
        slow = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(50)]
        for n, sock in enumerate(slow):
            sock.sendall(b"POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\n" if n % 2 else b"GET /api/control/queue.list HTTP/1.1\r\n")
        stop = threading.Event()

        def dribble() -> None:
            while not stop.wait(0.3):
                for sock in slow:
                    try:
                        sock.sendall(b"X-A: b\r\n")
                    except OSError:
                        pass
        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            # Each would wait three seconds for a client to be ended, were it in the way.
            self.assertLess(self.time_of_twenty(world, domain, "beside"), 3 * alone + 20)
            self.assertEqual(self.ask("GET", "/readyz")[0], 200, "the other listener is not held up")
            wait_until(self.is_served_over_tcp, "dribbling connections to be ended")
        finally:
            stop.set()
            thread.join()
            for sock in slow:
                sock.close()

    def test_clients_that_go_in_the_middle_of_a_request_leave_their_place_to_others(self) -> None:
        self.start(self.http_world(request_timeout="10m", idle_timeout="10m", connections_max=20))
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", self.port)) as sock:
                sock.sendall(b"POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/livez")
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()

    def time_of_twenty(self, world: World, domain: str, name: str) -> float:
        began = time.monotonic()
        for n in range(20):
            world.relay.send(SENDER, [f"r@{domain}"], f"{name}{n}")
        world.wait_accepted(f"{name}19")
        return time.monotonic() - began

    def is_served_over_tcp(self) -> bool:
        try:
            return self.ask("GET", "/livez", token="")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


class WithoutMemory(HttpTest):
    """A sanitizer keeps the allocator to itself, so this is for the real one."""

    def test_what_is_refused_is_refused_where_memory_is_wanting_for_the_answer(self) -> None:
        world = self.http_world()
        faults = Faults(world.relay)
        self.start(world)
        assert world.relay.process is not None
        tried = 0
        for path, body in (("/api/control/suspend", b'{"all": true}'), ("/nowhere", b"x" * 100)):
            for n in range(1, 40):
                failed = faults.failed(ALLOCATIONS)
                faults.fail(ALLOCATIONS, faults.calls(ALLOCATIONS) + n, 3)
                try:
                    self.assertIn(self.ask("POST", path, body, token="")[0], (401, 404, 503))
                except (OSError, http.client.HTTPException):
                    pass  # closed without an answer
                tried += faults.failed(ALLOCATIONS) > failed
                faults.fail(ALLOCATIONS, 0)
                self.assertTrue(world.relay.process.running(), f"{path}, allocation {n}: {world.relay.process.stderr()[-300:]}")
                self.assertEqual(self.ask("GET", "/api/control/suspend.list")[1]["items"], [], f"allocation {n}")
        self.assertGreater(tried, 40)

    def test_requests_that_come_together_hold_no_more_memory_than_is_configured(self) -> None:
        """A megabyte of small values is some 20 MB once it is read."""
        count = 16
        world = self.http_world(memory_max="64MB")
        domain, _ = world.domain("one", "good")
        self.start(world)
        assert world.relay.process is not None
        world.relay.run("suspend", "--all")
        self.status = pathlib.Path(f"/proc/{world.relay.process.pid}/status")
        before = peak = self.anonymous_bytes()
        mail = {"envelope_sender": SENDER, "recipients": [{"email": f"r{n}@{domain}"} for n in range(500)],
                "content": "Subject: x\n\nx\n", "substitutions": {"numbers": list(range(10)) * 50000}}
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(self.ask("POST", "/api/inject/v1", mail)[0]))
                   for _ in range(count)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, self.anonymous_bytes())
            time.sleep(0.005)
        self.assertEqual(answers, [200] * count)
        self.assertLess(peak - before, 150_000_000)

    def anonymous_bytes(self) -> int:
        return int(re.search(r"RssAnon:\s+(\d+) kB", self.status.read_text()).group(1)) * 1024


if SANITIZED:
    del WithoutMemory

if __name__ == "__main__":
    main()
