"""What becomes of mail that does not get through at once: kept, tried again, and told of to its sender."""

from __future__ import annotations

import email
import email.message
import email.policy
from typing import Any

from harness import E2ETest, ORIGIN, Relay, World, content_of, main, stays, wait_until

QUICK = {"first": "1s", "max": "2s"}


class BounceTest(E2ETest):
    """A world with a postbox domain that bounces come back to."""

    limit_s = 40

    def world(self, **config: Any) -> World:
        world = super().world(**config)
        self.postbox = world.exchange("good")
        self.sender = f"sender@{world.mx('postbox', self.postbox)}"
        return world

    def notices(self, world: World) -> list[dict[str, Any]]:
        return [r for r in world.exchanges.accepted(at=world.exchanges.at(self.postbox)) if r["sender"] == ""]

    def wait_notice(self, world: World, count: int = 1) -> tuple[email.message.EmailMessage, dict[str, Any]]:
        """The `count`-th notice that came back, parsed, and its envelope."""
        def arrived() -> list[dict[str, Any]] | None:
            assert world.relay.process is not None
            world.relay.process.require_running()
            found = self.notices(world)
            return found if len(found) >= count else None
        record = (wait_until(arrived, f"notice number {count}") or [])[count - 1]
        parsed = email.message_from_bytes(world.exchanges.content(record), policy=email.policy.default)
        assert isinstance(parsed, email.message.EmailMessage)
        return parsed, record


def report_of(notice: email.message.EmailMessage) -> tuple[email.message.Message, list[email.message.Message]]:
    """The per-message fields and the per-recipient field groups of a notice's delivery-status part."""
    for part in notice.walk():
        if part.get_content_type() in ("message/delivery-status", "message/global-delivery-status"):
            groups = [group for group in part.get_payload() if len(group.keys()) > 0]
            return groups[0], groups[1:]
    raise AssertionError("no delivery-status part")


class Bounces(BounceTest):
    """RFC 3464 and 3461: contents and conditions of a bounce."""

    def refused(self, body: str | bytes = "Hello.\r\n", recipients: tuple[str, ...] = ("bob",),
                **options: list[str]) -> World:
        """A message whose recipients the exchange refuses."""
        world = self.world()
        domain, _ = world.domain("no", "reply@RCPT=550 5.1.1 No such user here")
        world.start().send(self.sender, [f"{who}@{domain}" for who in recipients], "refused", body, **options)
        return world

    def test_a_bounce_is_a_report_as_rfc_3464_wants_it(self) -> None:
        world = self.refused(mail_options=["ENVID=QQ+2B31", "RET=FULL"],
                             rcpt_options=[f"ORCPT=rfc822;Bob@{ORIGIN}", "NOTIFY=FAILURE"])
        notice, record = self.wait_notice(world)
        self.assertEqual((record["sender"], record["recipients"]), ("", [self.sender]))
        self.assertEqual(notice.get_content_type(), "multipart/report")
        self.assertEqual(notice.get_param("report-type"), "delivery-status")
        self.assertEqual(notice["Auto-Submitted"], "auto-replied")
        self.assertIn(self.sender, notice["To"])
        self.assertIn(f"postmaster@relay.{ORIGIN}", notice["From"])
        for field in ("Date", "Message-ID", "Subject", "MIME-Version"):
            self.assertIsNotNone(notice[field], field)
        types = [part.get_content_type() for part in notice.iter_parts()]
        self.assertEqual(types, ["text/plain", "message/delivery-status", "message/rfc822"])
        about, recipients = report_of(notice)
        self.assertEqual(about["Reporting-MTA"], f"dns; relay.{ORIGIN}")
        self.assertEqual(about["Original-Envelope-Id"], "QQ+31")
        self.assertIsNotNone(about["Arrival-Date"])
        self.assertEqual(len(recipients), 1)
        self.assertEqual(recipients[0]["Action"], "failed")
        self.assertEqual(recipients[0]["Status"], "5.1.1")
        self.assertEqual(recipients[0]["Final-Recipient"], f"rfc822; bob@no.{ORIGIN}")
        self.assertEqual(recipients[0]["Original-Recipient"].replace(" ", ""), f"rfc822;Bob@{ORIGIN}")
        self.assertEqual(recipients[0]["Remote-MTA"], f"dns; mx1.no.{ORIGIN}")
        self.assertEqual(recipients[0]["Diagnostic-Code"], "smtp; 550 5.1.1 No such user here")

    def test_a_bounce_says_in_plain_words_what_happened(self) -> None:
        notice, _ = self.wait_notice(self.refused())
        text = next(notice.iter_parts()).get_content()
        for word in (f"bob@no.{ORIGIN}", "No such user here"):
            self.assertIn(word, text)

    def test_the_original_is_returned_whole_or_as_header_section(self) -> None:
        for ret, kind, has_body in (("FULL", "message/rfc822", True), ("HDRS", "text/rfc822-headers", False)):
            with self.subTest(ret=ret):
                world = self.refused("The body.\r\n", mail_options=[f"RET={ret}"])
                notice, record = self.wait_notice(world)
                self.assertEqual([p.get_content_type() for p in notice.iter_parts()][2], kind)
                raw = world.exchanges.content(record)
                self.assertIn(f"<refused@{ORIGIN}>".encode(), raw)
                self.assertEqual(b"The body." in raw, has_body)

    def test_a_large_original_is_cut_to_its_header_section(self) -> None:
        world = self.refused(content_of(3_000_000))
        _, record = self.wait_notice(world)
        self.assertLess(record["bytes"], 100_000)

    def test_8bit_content_is_returned_as_8bit(self) -> None:
        world = self.refused("Grüße\r\n".encode(), mail_options=["BODY=8BITMIME"])
        _, record = self.wait_notice(world)
        self.assertIn("Grüße".encode(), world.exchanges.content(record))
        self.assertIn("BODY=8BITMIME", record["mail_parameters"])

    def test_one_bounce_tells_of_all_recipients_of_a_domain(self) -> None:
        world = self.refused(recipients=("ann", "bob", "cid"))
        notice, _ = self.wait_notice(world)
        finals = {group["Final-Recipient"] for group in report_of(notice)[1]}
        self.assertEqual(finals, {f"rfc822; {who}@no.{ORIGIN}" for who in ("ann", "bob", "cid")})
        world.relay.wait_logged("bounced", 3)
        self.assertEqual(len(self.notices(world)), 1)

    def test_notify_never_is_silent(self) -> None:
        world = self.refused(rcpt_options=["NOTIFY=NEVER"])
        world.relay.wait_logged("bounced")
        self.assertTrue(stays(lambda: not self.notices(world), 1))

    def test_notify_success_alone_wants_no_bounce(self) -> None:
        world = self.refused(rcpt_options=["NOTIFY=SUCCESS"])
        world.relay.wait_logged("bounced")
        self.assertTrue(stays(lambda: not self.notices(world), 1))

    def test_a_bounce_never_bounces(self) -> None:
        world = self.world()
        domain, _ = world.domain("no", "reply@RCPT=550 5.1.1 No such user here")
        relay = world.start()
        relay.send("", [f"bob@{domain}"], "from-nobody")
        relay.wait_logged("bounced")
        relay.send(f"also-refused@{domain}", [f"bob@{domain}"], "from-refused")
        relay.wait_logged("bounced", 3)  # the message, and its bounce at its sender's exchange
        self.assertTrue(stays(lambda: not self.notices(world), 1))
        self.assertEqual(len(relay.logged("bounced")), 3)

    def test_hostile_reply_text_cannot_break_the_report(self) -> None:
        world = self.world()
        text = "550-5.1.1 \x1b[31mred\x07\r\n550 5.1.1 " + "y" * 400 + " =?x?q?y?= --boundary"
        domain, _ = world.domain("no", f"reply@RCPT={text}")
        world.start().send(self.sender, [f"bob@{domain}"], "hostile")
        notice, record = self.wait_notice(world)
        self.assertEqual(report_of(notice)[1][0]["Status"], "5.1.1")
        raw = world.exchanges.content(record)
        self.assertNotIn(b"\x1b", raw)
        self.assertNotIn(b"\x07", raw)
        self.assertLessEqual(max(len(line) for line in raw.split(b"\r\n")), 998)

    def test_success_is_told_where_the_exchange_cannot(self) -> None:
        world = self.world()
        plain, _ = world.domain("plain", "no-dsn")
        able, _ = world.domain("able", "good")
        relay = world.start()
        for domain in (plain, able):
            relay.send(self.sender, [f"bob@{domain}"], domain, rcpt_options=["NOTIFY=SUCCESS,FAILURE"])
            world.wait_accepted(domain)
        notice, _ = self.wait_notice(world)
        _, recipients = report_of(notice)
        told = [(group["Action"], group["Final-Recipient"]) for group in recipients]
        self.assertEqual(told, [("relayed", f"rfc822; bob@{plain}")])
        self.assertEqual(recipients[0]["Status"][0], "2")
        self.assertTrue(stays(lambda: len(self.notices(world)) == 1, 1))


class Unroutable(BounceTest):
    """DNS alone says no."""

    def bounce(self, domain: str, *records: str) -> tuple[email.message.Message, Relay]:
        world = self.world()
        world.zone.add(*records)
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "unroutable")
        notice, _ = self.wait_notice(world)
        return report_of(notice)[1][0], relay

    def test_a_domain_that_does_not_exist_bounces_at_once(self) -> None:
        group, _ = self.bounce(f"nowhere.{ORIGIN}")
        self.assertEqual((group["Action"], group["Status"]), ("failed", "5.1.2"))
        self.assertFalse((group["Diagnostic-Code"] or "").startswith("smtp;"))

    def test_null_mx_bounces_with_its_own_status(self) -> None:
        group, _ = self.bounce(f"null.{ORIGIN}", "null MX 0 .", "null A 127.0.0.99")
        self.assertEqual(group["Status"], "5.1.10")

    def test_a_name_server_failure_defers(self) -> None:
        world = self.world()
        relay = world.start()
        relay.send(self.sender, [f"bob@broken.test-zone.{ORIGIN}"], "servfail")
        relay.wait_logged("deferred")
        self.assertEqual(self.notices(world), [])


class Deferrals(BounceTest):
    """Kept, tried again, given up."""

    def test_a_deferred_message_is_tried_again_and_delivered(self) -> None:
        world = self.world(retry=QUICK, delivery={"idle": "10ms"})
        domain, _ = world.domain("later", "reply@RCPT=450 4.2.1 Not now;first=1")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "later")
        relay.wait_logged("deferred")
        world.wait_accepted("later")
        delivered = relay.wait_logged("delivered")[0]
        self.assertEqual(delivered["attempt"], len(relay.logged("deferred")) + 1)

    def test_a_deferral_survives_a_restart_and_a_kill(self) -> None:
        for end in ("terminate", "kill"):
            with self.subTest(end=end):
                world = self.world(retry={"first": "8s", "max": "8s"})
                flag = world.folder / "ill"
                flag.touch()
                domain, _ = world.domain("later", f"reply@RCPT=450 4.2.1 Not now;while={flag}")
                relay = world.start()
                relay.send(self.sender, [f"ann@{domain}", f"bob@{domain}"], "later")
                relay.wait_logged("deferred", 2)
                # A line is logged before its outcome is durable; what the queue tells is read from the spool.
                wait_until(lambda r=relay: all(row["attempts"] >= 1 for row in r.json("queue", "list")), "stored attempts")
                getattr(relay, end)()
                flag.unlink()
                relay.start()
                wait_until(lambda w=world: len(w.recipients_taken("later")) == 2, "both recipients")
                attempts = {line["attempt"] for line in relay.wait_logged("delivered", 2, sender=self.sender)}
                self.assertGreaterEqual(min(attempts), 2, "the attempts were forgotten")

    def test_recipients_already_delivered_are_not_sent_again(self) -> None:
        world = self.world(retry=QUICK)
        domain, _ = world.domain("part", "reply@RCPT/bob=450 4.2.1 Not now;first=1")
        relay = world.start()
        relay.send(self.sender, [f"ann@{domain}", f"bob@{domain}"], "part")
        relay.wait_logged("deferred")
        relay.restart()
        wait_until(lambda: len(world.recipients_taken("part")) == 2, "both recipients")
        relay.wait_logged("delivered", recipient=f"bob@{domain}")
        self.assertEqual(sorted(world.recipients_taken("part")), [f"ann@{domain}", f"bob@{domain}"])

    def test_retries_come_less_and_less_often(self) -> None:
        world = self.world(retry={"first": "500ms", "max": "2s"})
        domain, (address,) = world.domain("never", "reply@RCPT=450 4.2.1 Not now")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "never")
        relay.wait_logged("deferred", 4)
        times = [e["t"] for e in world.exchanges.events.where(at=world.exchanges.at(address), event="command")
                 if e["line"].startswith("RCPT")][:4]
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        # Each retry waits at least its interval, less the jitter of a tenth.
        for gap, least in zip(gaps, (0.45, 0.9, 1.8)):
            self.assertGreaterEqual(gap, least)

    def test_the_age_limit_bounces_with_the_last_reply(self) -> None:
        world = self.world(retry={"first": "1s", "max": "1s", "age_limit": "10s"})
        domain, _ = world.domain("never", "reply@RCPT=450 4.2.1 Mailbox is being moved")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "never")
        notice, record = self.wait_notice(world)
        group = report_of(notice)[1][0]
        self.assertEqual((group["Action"], group["Status"]), ("failed", "5.4.7"))
        self.assertIn(b"Mailbox is being moved", world.exchanges.content(record))
        self.assertGreaterEqual(len(relay.logged("deferred")), 2)

    def test_the_age_limit_holds_for_mail_parked_on_a_silent_exchange(self) -> None:
        world = self.world(retry={"first": "1s", "max": "1s", "age_limit": "4s"})
        domain, _ = world.domain("hung", "silent@GREETING")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "hung")
        notice, _ = self.wait_notice(world)
        self.assertEqual(report_of(notice)[1][0]["Status"], "5.4.7")
        self.assertEqual(len(relay.logged("bounced")), 1)

    def test_a_delay_notice_is_sent_once(self) -> None:
        world = self.world(retry={"first": "1s", "max": "1s", "delay_notice": "1s"})
        domain, _ = world.domain("later", "reply@RCPT=450 4.2.1 Not now")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "asked", rcpt_options=["NOTIFY=DELAY,FAILURE"])
        relay.send(self.sender, [f"bob@{domain}"], "not-asked", rcpt_options=["NOTIFY=FAILURE"])
        notice, record = self.wait_notice(world)
        group = report_of(notice)[1][0]
        self.assertEqual((group["Action"], group["Status"][0]), ("delayed", "4"))
        self.assertIsNotNone(group["Will-Retry-Until"])
        self.assertIn(f"<asked@{ORIGIN}>".encode(), world.exchanges.content(record))
        relay.wait_logged("deferred", 10)
        self.assertEqual(len(self.notices(world)), 1)


class Operators(BounceTest):
    """What an operator orders for queued mail."""

    def waiting(self) -> tuple[World, str]:
        """A relay with one message that waits for hours; the queue's id of it."""
        world = self.world(retry={"first": "2h"})
        self.flag = world.folder / "ill"
        self.flag.touch()
        domain, _ = world.domain("later", f"reply@RCPT=450 4.2.1 Not now;while={self.flag}")
        relay = world.start()
        relay.send(self.sender, [f"bob@{domain}"], "waits")
        identity = relay.wait_logged("deferred")[0]["id"]
        wait_until(lambda: "Not now" in str(relay.json("queue", "list")), "the outcome in the queue")  # the log is ahead of it
        return world, identity

    def order(self, relay: Relay, *arguments: str) -> None:
        done = relay.run("queue", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_queue_list_and_show_tell_of_it(self) -> None:
        world, identity = self.waiting()
        entries = world.relay.json("queue", "list")
        self.assertEqual(len(entries), 1)
        text = str(entries[0])
        for word in (identity, self.sender, f"bob@later.{ORIGIN}", "Not now"):
            self.assertIn(word, text)
        shown = world.relay.run("queue", "show", identity)
        self.assertIn(f"bob@later.{ORIGIN}", shown.stdout)

    def test_retry_sends_it_now(self) -> None:
        world, identity = self.waiting()
        self.flag.unlink()
        self.order(world.relay, "retry", identity)
        world.wait_accepted("waits")
        world.relay.wait_logged("delivered")
        world.relay.wait_drained()

    def test_bounce_returns_it(self) -> None:
        world, identity = self.waiting()
        self.order(world.relay, "bounce", identity)
        notice, _ = self.wait_notice(world)
        self.assertEqual(report_of(notice)[1][0]["Action"], "failed")

    def test_hold_keeps_it_over_a_restart_until_release(self) -> None:
        world, identity = self.waiting()
        self.order(world.relay, "hold", identity)
        self.flag.unlink()
        world.relay.restart()
        self.assertIn("held", str(world.relay.json("queue", "list")).lower())
        self.order(world.relay, "release", identity)
        world.wait_accepted("waits")

    def test_orders_for_a_whole_domain(self) -> None:
        world, _ = self.waiting()
        world.relay.send(self.sender, [f"cid@later.{ORIGIN}"], "also-waits")
        wait_until(lambda: str(world.relay.json("queue", "list")).count("Not now") == 2, "both outcomes in the queue")
        self.flag.unlink()
        self.order(world.relay, "retry", "--domain", f"later.{ORIGIN}")
        world.wait_accepted("waits")
        world.wait_accepted("also-waits")


if __name__ == "__main__":
    main()
