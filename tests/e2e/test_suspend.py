"""Suspended domains: nothing new is tried there, whatever comes, over restarts, until resumed or the time is up."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

from harness import E2ETest, ORIGIN, PATIENT, UnixConnection, main, message, stays, wait_until

SENDER = f"sender@{ORIGIN}"


class Suspend(E2ETest):

    def start(self, *behaviours: str, **config: Any) -> None:
        self.w = self.world(**config)
        self.domain, self.addresses = self.w.domain("one", *(behaviours or ("good",)))
        self.other, _ = self.w.domain("two", "good")
        self.relay = self.w.start()
        wait_until(lambda: self.ask("GET", "/readyz")[0] == 200, "HTTP, which comes behind the control socket")

    def held(self) -> pathlib.Path:
        """A file that is there."""
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "held"
        path.touch()
        return path

    def send(self, message_id: str, domain: str | None = None) -> None:
        self.relay.send(SENDER, [f"r@{domain or self.domain}"], message_id)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = UnixConnection(self.relay.config["http"]["listen"][0]["socket"])
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if answer.getheader("Content-Type") == "application/json" else text.decode()
        finally:
            connection.close()

    def say(self, *arguments: str) -> str:
        done = self.relay.run(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def nothing_is_tried(self) -> None:
        self.assertTrue(stays(lambda: not any(self.w.exchanges.connections(a) for a in self.addresses), 0.5),
                        "an exchange was connected to")

    def test_mail_for_a_suspended_domain_waits_without_an_attempt_and_goes_when_it_is_resumed(self) -> None:
        self.start()
        self.assertIn(f"{self.domain}: suspended", self.say("suspend", self.domain, "--reason", "they asked us to"))
        self.send("m1")
        self.send("m2")
        self.send("other", self.other)
        self.w.wait_accepted("other")
        self.nothing_is_tried()
        listed = self.relay.json("queue", "list", "--state", "suspended")
        self.assertEqual({(line["recipient"], line["state"], line["attempts"]) for line in listed},
                         {(f"r@{self.domain}", "suspended", 0)})
        self.assertIn("they asked us to", self.say("suspend", "list"))
        self.assertIn("suspended", self.say("route", self.domain))
        self.assertIn("SUSPENDED " + self.domain, self.say("top"))
        self.assertIn("2 recipients", self.say("resume", self.domain))
        self.w.wait_accepted("m1")
        self.w.wait_accepted("m2")
        self.assertIn("Nothing is suspended", self.say("suspend"))
        self.assertEqual(len(self.relay.wait_logged("suspended", domain=self.domain, text="they asked us to")), 1)
        self.assertEqual(len(self.relay.wait_logged("resumed", domain=self.domain)), 1)

    def test_what_waits_behind_a_busy_exchange_is_taken_back(self) -> None:
        held = self.held()
        self.start(f"hold@DOT;while={held}", delivery={"connections_per_destination": 1, **PATIENT})
        with self.relay.connect() as client:
            for i in range(20):
                client.sendmail(SENDER, [f"r{i}@{self.domain}"], message(f"m{i}"))
        wait_until(self.w.exchanges.accepted, "the first of them, of whichever worker, to be taken")
        self.say("suspend", self.domain)
        before = len(self.w.exchanges.accepted())
        held.unlink()
        # One message is under way, and one may be bound behind it: they are finished.
        self.assertTrue(stays(lambda: len(self.w.exchanges.accepted()) <= before + 2, 2), "mail went on")
        self.say("resume", self.domain)
        for i in range(20):
            self.w.wait_accepted(f"m{i}")
        self.assertEqual(len(self.w.exchanges.accepted()), 20, "something went twice")

    def test_what_was_bound_behind_a_late_reply_and_comes_back_is_not_tried_elsewhere(self) -> None:
        held = self.held()
        self.start(f"hold@DOT;while={held}", delivery={"connections_per_destination": 1, "patience_min": "2s", "patience_max": "2s"})
        self.say("suspend", self.domain)  # so that they set out together
        for i in range(3):
            self.send(f"m{i}")
        self.say("resume", self.domain)
        wait_until(lambda: self.w.exchanges.commands(self.addresses[0], "DATA"), "a first message with the next one behind it")
        self.say("suspend", self.domain)
        self.relay.wait_logged("deferred", local="LOCAL_SUSPENDED")
        held.unlink()
        wait_until(lambda: self.relay.logged("delivered"), "the first to be answered")
        self.assertTrue(stays(lambda: len(self.w.exchanges.accepted()) == 1, 1), "more than the first went")
        wait_until(lambda: len(self.relay.json("queue", "list", "--state", "suspended")) == 2, "both to be shown as suspended")
        self.say("resume", self.domain)  # what had come back goes at once, not after a retry interval
        self.w.wait_accepted("m1")
        self.w.wait_accepted("m2")

    def test_all_mail_is_suspended_over_a_restart_and_a_kill(self) -> None:
        self.start()
        self.assertIn("all mail: suspended for 1h", self.say("suspend", "--all", "--for", "1h"))
        self.send("m1")
        self.relay.restart()
        self.send("m2", self.other)
        self.relay.kill()
        self.relay.start()
        [line] = self.relay.json("suspend", "list")
        self.assertTrue(line["all"])
        self.assertGreater(line["left_ms"], 3_000_000)
        wait_until(lambda: len(self.relay.json("queue", "list", "--state", "suspended")) == 2, "both to be shown as suspended")
        self.nothing_is_tried()
        self.say("resume", "--all")
        self.w.wait_accepted("m1")
        self.w.wait_accepted("m2")

    def test_a_suspension_ends_when_its_time_is_up(self) -> None:
        self.start()
        self.say("suspend", self.domain, "--for", "1s")
        self.send("m1")
        self.w.wait_accepted("m1")
        self.assertEqual(len(self.relay.wait_logged("resumed", domain=self.domain)), 1)
        self.assertEqual(self.relay.json("suspend", "list"), [])

    def test_a_retry_does_not_override_it_and_a_bounce_does(self) -> None:
        self.start()
        self.say("suspend", self.domain)
        self.send("m1")
        self.say("queue", "retry", "--all")
        self.nothing_is_tried()
        self.say("queue", "bounce", "--domain", self.domain)
        self.relay.wait_logged("bounced", recipient=f"r@{self.domain}")
        self.nothing_is_tried()

    def test_over_http_it_is_the_same_and_the_figures_tell(self) -> None:
        self.start()
        status, answer = self.ask("POST", "/api/control/suspend", {"domain": self.domain, "for_ms": 3600000, "reason": "x"})
        self.assertEqual((status, answer["matched"], answer["suspended"]), (200, 0, 1))
        self.ask("POST", "/api/control/suspend", {"all": True})
        status, answer = self.ask("GET", "/api/control/suspend.list")
        self.assertEqual([(item.get("all"), item.get("domain")) for item in answer["items"]],
                         [(True, None), (None, self.domain)])
        text = self.ask("GET", "/metrics")[1]
        self.assertIn("\nonward_suspended_domains 1\n", text)
        self.assertIn("\nonward_suspended_all 1\n", text)
        self.assertEqual(self.ask("GET", "/api/control/suspend")[0], 404)
        self.send("m1")
        self.assertEqual(self.ask("POST", "/api/control/resume", {"all": True})[1]["suspended"], 1)
        self.assertEqual(self.ask("POST", "/api/control/resume", {"all": True})[0], 400)
        self.nothing_is_tried()
        self.ask("POST", "/api/control/resume", {"domain": self.domain})
        self.w.wait_accepted("m1")
        self.assertIn("\nonward_suspended_domains 0\n", self.ask("GET", "/metrics")[1])

    def test_mistakes_are_told(self) -> None:
        self.start()
        for arguments, status, word in ((("suspend", "--for", "2h"), 64, "usage"), (("suspend", "a..b"), 65, "not a valid domain"),
                                        (("suspend", self.domain, "--for", "soon"), 64, "usage"),
                                        (("suspend", self.domain, "--for", "1000d"), 65, "for_ms"), (("resume",), 64, "usage"),
                                        (("resume", self.domain), 65, "not suspended"), (("resume", "--everything"), 64, "usage")):
            done = self.relay.run(*arguments)
            self.assertEqual((done.returncode, word in done.stderr), (status, True), f"{arguments}: {done.stderr}")
        self.relay.terminate()
        path = f"{self.relay.config['spool']['path']}/suspended"
        with open(path, "w", encoding="ascii") as file:
            file.write("what is this\n")
        from harness import onward
        done = onward("serve", "-c", self.relay.config_path)
        self.assertEqual(done.returncode, 78)
        self.assertIn(f"{path}:1:", done.stderr)
        with open(path, "w", encoding="ascii"):
            pass
        self.relay.start()
        wait_until(lambda: self.relay.json("suspend", "list") == [], "an empty file to suspend nothing")


if __name__ == "__main__":
    main()
