"""`onward trace`: what it shows of a delivery, to people and to programs, and what it leaves behind."""

import pathlib
import tempfile
from typing import Any

from harness import ORIGIN, E2ETest, parse_objects, wait_until


def events(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == name]


class Trace(E2ETest):
    def trace(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        """The trace's JSON lines."""
        done = self.world_.relay.run("trace", "--json", *arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return parse_objects(done.stdout)

    def setUp(self) -> None:
        super().setUp()
        self.world_ = self.world()

    def test_the_origins_case_is_shown_step_by_step(self) -> None:
        domain, (first, second) = self.world_.domain("sampleorg", "silent@GREETING", "good")
        self.world_.start()
        shown = self.trace(f"postmaster@{domain}")
        answers = " ".join(line["text"] for line in events(shown, "dns"))
        for fact in (f"MX 10 mx1.{domain}", f"MX 20 mx2.{domain}", "TTL", f"A: {first}", f"A: {second}"):
            self.assertIn(fact, answers)
        self.assertEqual([line["address"].split(":")[0] for line in events(shown, "connecting")], [first, second])
        self.assertEqual([line["text"] for line in events(shown, "slow")], ["greeting"])
        self.assertEqual(events(shown, "slow")[0]["address"].split(":")[0], first)
        self.assertTrue(any(line["text"].startswith("EHLO") for line in events(shown, "sent")))
        verdict, = events(shown, "verdict")
        self.assertEqual((verdict["note"], verdict["address"].split(":")[0]), ("delivered", second))
        self.assertEqual([line["seconds"] for line in shown], sorted(line["seconds"] for line in shown))
        self.assertEqual(self.world_.recipients_taken(), [f"postmaster@{domain}"])

    def test_people_see_the_same_with_the_dialogue(self) -> None:
        domain, _ = self.world_.domain("sampleorg", "silent@GREETING", "good")
        self.world_.start()
        done = self.world_.relay.run("trace", f"postmaster@{domain}")
        self.assertEqual(done.returncode, 0, done.stderr)
        for part in ("#1", "#2", "> MAIL FROM:", "> RCPT TO:", "< 220 ", "patience is over", "delivered: "):
            self.assertIn(part, done.stdout)

    def test_a_probe_stops_before_mail(self) -> None:
        domain, (_, second) = self.world_.domain("sampleorg", "silent@GREETING", "good")
        self.world_.start()
        shown = self.trace("--probe", domain)
        self.assertEqual(events(shown, "ready")[0]["address"].split(":")[0], second)
        said = "".join(line["text"] for line in events(shown, "sent"))
        self.assertNotIn("MAIL", said)
        self.assertIn("QUIT", said)
        self.assertEqual(self.world_.recipients_taken(), [])

    def test_what_the_running_relay_knows_orders_the_exchanges(self) -> None:
        domain, (first, second) = self.world_.domain("sampleorg", "good", "good")
        relay = self.world_.start()
        self.assertEqual(relay.run("health", "demote", first).returncode, 0)
        shown = self.trace(f"postmaster@{domain}")
        self.assertIn("demoted", " ".join(line["text"] for line in events(shown, "health")))
        self.assertEqual([line["address"].split(":")[0] for line in events(shown, "connecting")], [second])

    def test_it_works_without_a_running_relay_and_leaves_nothing_behind(self) -> None:
        domain, _ = self.world_.domain("sampleorg", "good")
        self.world_.start().terminate()
        before = set(pathlib.Path(tempfile.gettempdir()).glob("onward-trace-*"))
        shown = self.trace(f"postmaster@{domain}")
        self.assertIn("no running relay", events(shown, "health")[0]["text"])
        self.assertEqual(events(shown, "verdict")[0]["note"], "delivered")
        # Traces of others, beside this one, come and go.
        wait_until(lambda: set(pathlib.Path(tempfile.gettempdir()).glob("onward-trace-*")) <= before, "nothing to be left")

    def test_a_refusal_a_deferral_and_a_missing_domain_have_statuses_of_their_own(self) -> None:
        refused, _ = self.world_.domain("refusing", "reply@RCPT=550 5.1.1 No such user")
        deferred, _ = self.world_.domain("deferring", "reply@RCPT=450 4.2.0 Later")
        down = self.world_.mx("down", self.world_.silent_address())
        self.world_.start()
        self.assertEqual(events(self.trace(f"a@{refused}", status=69), "verdict")[0]["note"], "bounced")
        self.assertEqual(events(self.trace(f"a@{deferred}", status=75), "verdict")[0]["note"], "deferred")
        self.assertEqual(events(self.trace("--probe", down, status=75), "spent")[0]["event"], "spent")
        self.trace("a@nowhere." + down, status=68)
        self.trace("not an address", status=64)

    def test_it_ends_where_the_only_exchange_hangs(self) -> None:
        domain, _ = self.world_.domain("hanging", "silent@GREETING")
        self.world_.start()
        for arguments, words in ((("--probe", domain), "no exchange was ready for mail"), ((f"a@{domain}",), "no verdict")):
            shown = self.trace("--wait", "2s", *arguments, status=75)
            self.assertIn(f"{words} within 2s", events(shown, "stopped")[0]["text"])
        self.trace("--wait", "soon", domain, status=64)

    def test_a_message_of_the_users_is_sent_as_it_is(self) -> None:
        domain, _ = self.world_.domain("sampleorg", "good")
        self.world_.start()
        path = self.world_.folder / "message"
        path.write_text(f"From: a@example.org\nMessage-ID: <mine@{ORIGIN}>\nSubject: x\n\n.dots\nöäü\n")
        self.trace("--message", str(path), f"r@{domain}")
        self.assertEqual(len(self.world_.wait_accepted("mine")), 1)

    def test_a_flood_and_control_characters_do_not_reach_the_terminal(self) -> None:
        domain, _ = self.world_.domain("sampleorg", "flood@GREETING", "good")
        self.world_.start()
        done = self.world_.relay.run("trace", f"postmaster@{domain}")
        self.assertLess(len(done.stdout.splitlines()), 200)
        self.assertNotRegex(done.stdout, r"[\x00-\x08\x0b-\x1f\x7f]")
