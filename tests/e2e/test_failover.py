"""Every row of the fault tables: a domain whose first exchange misbehaves and whose second is well.

All rows run side by side in one relay, each with its own domain and exchanges, in three rounds of one message each: to
a stranger, to a suspect, to a demoted host. Each test then looks at its own row. What a row allows in seconds is the
requirement itself; the patience of 5 s (a stranger) and 1 s (a suspect) is part of it. SLACK_S is what all rows at once
add on two cores. What others on this machine add is measured: mail to an exchange that is well goes out all the time
(Pulse), and where that was late, so may a row be. The rounds are then run again, a few times, for a quieter moment.
The third message must not even wait: no exchange may be found slow in its round.
"""

from __future__ import annotations

import contextlib
import threading
import time
import unittest
from dataclasses import dataclass, field
from typing import Any, Callable

from harness import (E2ETest, JsonLines, ORIGIN, PATIENT, SANITIZED, World, content_of, hard_limit, main, merge,
                     wait_until)

SLACK_S = 3.0 if SANITIZED else 1.5
CARRIED_PER_S = 4_000_000  # what our own exchange takes at the least, with all rows at once
ROUND_LIMIT_S = 60.0
QUIET_S = 0.8  # less than the shortest patience, which only a machine that stands still can use up at an exchange that is well
TRIES = 4  # for three rounds in which the machine is so quiet
ROUNDS = 3
SENDER = f"sender@postbox.{ORIGIN}"
LEFT_BEHIND = 30
LARGE_BYTES = 12_000_000  # more than the kernel's buffers take: its last byte waits for the exchange


@dataclass
class Row:
    """A fault of the first exchange, and the seconds that each round may take."""

    name: str
    behaviour: str
    seconds: tuple[float, float, float] = (0.1, 0.1, 0.1)
    bytes: int = 100
    domain: str = ""
    first: str = ""
    second: str = ""
    took: list[float | None] = field(default_factory=list)
    taken_at: list[str] = field(default_factory=list)
    first_connections: list[int] = field(default_factory=list)


SILENT = (5.0, 1.0, 0.1)
BROKEN = (1.0, 0.1, 0.1)

# The hosts that the table must learn to avoid: third message without any connection to them.
AVOIDED = [
    Row("accepts_and_never_greets", "silent@GREETING", SILENT),
    Row("greets_a_byte_a_second", "trickle@GREETING", SILENT),
    Row("greets_with_garbage", "garbage@GREETING", BROKEN),
    Row("greets_without_end", "flood@GREETING", BROKEN),
    Row("answers_ehlo_without_end", "flood@EHLO", BROKEN),
    Row("never_answers_a_syn", "backlog", SILENT),
    Row("silent_after_ehlo", "silent@EHLO", SILENT),
    Row("answers_ehlo_a_byte_a_second", "trickle@EHLO", SILENT),
    Row("refuses_connections", "", BROKEN),
    Row("closes_at_greeting", "close@GREETING", BROKEN),
    Row("resets_at_greeting", "reset@GREETING", BROKEN),
    Row("closes_at_ehlo", "close@EHLO", BROKEN),
    Row("greets_421", "reply@GREETING=421 4.3.2 Busy", BROKEN),
    Row("greets_450", "reply@GREETING=450 4.3.2 Busy", BROKEN),
    Row("greets_554", "reply@GREETING=554 5.3.2 Not here", BROKEN),
    Row("greets_521", "reply@GREETING=521 5.3.2 Accepts no mail", BROKEN),
    Row("answers_ehlo_and_helo_5xx", "reply@EHLO=502 5.5.1 No;reply@HELO=502 5.5.1 No", BROKEN),
]

# Hosts that fall silent behind an accepted EHLO.
LATE_SILENCE = [
    Row("silent_after_mail", "silent@MAIL", SILENT),
    Row("silent_after_rcpt", "silent@RCPT", SILENT),
    Row("silent_after_data", "silent@DATA", SILENT),
    Row("silent_after_mail_without_pipelining", "silent@MAIL;no-pipelining", SILENT),
    Row("silent_after_data_without_pipelining", "silent@DATA;no-pipelining", SILENT),
    Row("stops_reading_in_the_body", "halt@BODY", SILENT, LARGE_BYTES),
]

# The next exchange at once, whatever the table makes of the host.
AT_ONCE = [
    Row("closes_at_mail", "close@MAIL"),
    Row("closes_at_rcpt", "close@RCPT"),
    Row("closes_at_data", "close@DATA"),
    Row("closes_in_the_body", "close@BODY", bytes=LARGE_BYTES),
    Row("resets_at_mail", "reset@MAIL"),
    Row("resets_in_the_body", "reset@BODY", bytes=LARGE_BYTES),
    Row("says_421_at_ehlo", "reply@EHLO=421 4.3.2 Busy"),
    Row("says_421_at_mail", "reply@MAIL=421 4.3.2 Busy"),
    Row("says_421_at_rcpt", "reply@RCPT=421 4.3.2 Busy"),
    Row("says_421_at_data", "reply@DATA=421 4.3.2 Busy"),
    Row("says_451_at_mail", "reply@MAIL=451 4.3.0 Try later"),
    Row("says_451_at_rcpt", "reply@RCPT=451 4.3.0 Try later"),
    Row("says_451_at_data", "reply@DATA=451 4.3.0 Try later"),
    Row("says_451_at_the_dot", "reply@DOT=451 4.3.0 Try later"),
    Row("says_452_no_room_at_mail", "reply@MAIL=452 4.3.1 No room"),
    Row("says_unknown_4xx_at_data", "reply@DATA=499 Odd"),
]

# The first exchange takes it in the end.
SAME_HOST = [
    Row("refuses_ehlo_knows_helo", "no-ehlo"),
    Row("refuses_starttls", "starttls;reply@STARTTLS=454 4.7.0 No TLS now"),
    Row("closes_in_the_handshake", "starttls;close@TLS"),
    Row("garbage_in_the_handshake", "starttls;garbage@TLS", SILENT),
    Row("silent_in_the_handshake", "starttls;silent@TLS", SILENT),
    Row("multi_line_greeting", "reply@GREETING=220-one\r\n220-two\r\n220 three"),
]

# Either exchange may take it.
EITHER = [
    Row("silent_after_starttls", "starttls;silent@STARTTLS", SILENT),
]

ROWS = AVOIDED + LATE_SILENCE + AT_ONCE + SAME_HOST + EITHER


class Pulse:
    """Sends to an exchange that is well, message after message, and tells how late this machine is."""

    def __init__(self, world: World, domain: str) -> None:
        self.world, self.domain = world, domain
        self.done = threading.Event()
        self.slowest_s = 0.0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self.done.is_set():
            began = time.monotonic()
            with contextlib.suppress(OSError):
                self.world.relay.send(SENDER, [f"r@{self.domain}"], f"pulse-{number}")
                # Asked of a journal of its own: the other one is read by the test.
                taken = JsonLines(self.world.exchanges.taken.path)
                while not self.done.is_set() and not taken.where(message_id=f"<pulse-{number}@{ORIGIN}>"):
                    time.sleep(0.01)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            number += 1
            self.done.wait(0.1)

    def begin(self) -> None:
        self.slowest_s = 0.0
        self.thread.start()

    def end(self) -> None:
        self.done.set()
        self.thread.join()


class Rounds:
    """Runs all rows three times and keeps what happened."""

    def __init__(self) -> None:
        # What is found ill stays so to the third round, however long the second one takes.
        self.world = World(delivery={"idle": "10ms"}, retry={"first": "10m"}, health={"demote_first": "10m", "down_first": "10m"})
        self.log_marks: list[int] = []
        self.late_s: list[float] = []  # how late the machine was in each round
        self.pulse_domain = ""
        for number, row in enumerate(ROWS):
            row.first = self.world.exchange(row.behaviour) if row.behaviour else self.world.silent_address()
            row.second = self.world.exchange("good")
            row.domain = self.world.mx(f"row{number}", row.first, row.second)
            row.took, row.taken_at, row.first_connections = [], [], []
        self.pulse_domain, _ = self.world.domain("pulse", "good")

    def run(self) -> None:
        self.relay = self.world.start()
        for number in range(ROUNDS):
            pulse = Pulse(self.world, self.pulse_domain)
            pulse.begin()
            try:
                self._round(number)
            finally:
                pulse.end()
            self.late_s.append(pulse.slowest_s)

    def _round(self, number: int) -> None:
        exchanges = self.world.exchanges
        self.log_marks.append(len(self.relay.log.lines()))
        before = {row.name: exchanges.connections(row.first) for row in ROWS}
        sent = {row.name: self._send(row, number) for row in ROWS}
        waiting = {row.name: row for row in ROWS}

        def all_arrived() -> bool:
            for name in [name for name in waiting if exchanges.accepted(self._id(waiting[name], number))]:
                del waiting[name]
            return not waiting
        # Rows that stay away fail in their own tests.
        with contextlib.suppress(AssertionError):
            wait_until(all_arrived, "all rows of a round", ROUND_LIMIT_S)
        for row in ROWS:
            found = exchanges.accepted(self._id(row, number))
            row.took.append(found[0]["t"] - sent[row.name] if found else None)
            row.taken_at.append(found[0]["at"].rpartition(":")[0] if found else "")
            row.first_connections.append(exchanges.connections(row.first) - before[row.name])
        # Kept connections must be gone, or the next round would never meet the first exchange.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(exchanges.open_now(row.second) for row in ROWS), "idle connections to end")

    @staticmethod
    def _id(row: Row, number: int) -> str:
        return f"{row.name}-{number}"

    def _send(self, row: Row, number: int) -> float:
        body = content_of(row.bytes)
        return self.relay.send(SENDER, [f"r@{row.domain}"], self._id(row, number), body)


class FaultRows(unittest.TestCase):
    """One test per row, made below."""

    rounds: Rounds

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(hard_limit(1800 if SANITIZED else 900, "three rounds of all rows"))
        for tries in range(1, TRIES + 1):
            cls.rounds = Rounds()
            clean_up = cls.rounds.world.cleanup
            try:
                cls.rounds.run()
            except BaseException:
                clean_up("test_failover.rows")
                raise
            if max(cls.rounds.late_s) < QUIET_S or tries == TRIES:
                break
            print(f"      rounds in which this machine was late by {max(cls.rounds.late_s):.1f} s", flush=True)
            cls.rounds.world.finish()
            clean_up(None)
        cls.addClassCleanup(clean_up, "test_failover.rows")

    @classmethod
    def tearDownClass(cls) -> None:
        """All rows together must have left the relay whole and within the protocol."""
        cls.rounds.world.finish()

    def check(self, row: Row) -> None:
        carrying = row.bytes / CARRIED_PER_S
        for number, allowed in enumerate(row.seconds):
            took = row.took[number]
            with self.subTest(message=number + 1):
                if took is None:
                    self.fail(f"message {number + 1} had not arrived after {ROUND_LIMIT_S:.0f} s")
                slack = SLACK_S + 3 * max(0.0, self.rounds.late_s[number] - QUIET_S)
                self.assertLessEqual(took, allowed + carrying + slack, f"message {number + 1} took {took:.2f} s")
        self.check_once(row)

    def check_once(self, row: Row) -> None:
        taken = self.rounds.world.exchanges.accepted()
        for number in range(ROUNDS):
            copies = [r for r in taken if r["message_id"] == f"<{row.name}-{number}@{ORIGIN}>"]
            self.assertLessEqual(len(copies), 1, "a second copy was sent")

    def check_avoided(self, row: Row) -> None:
        self.check(row)
        self.assertEqual(row.taken_at, [row.second] * ROUNDS)
        self.assertEqual(row.first_connections[2], 0, "the third message was offered to a host known to be ill")
        self.assertEqual(self.log_of_first(row, self.rounds.log_marks[2]), [], "the third message met the host again")
        self.check_log(row)

    def check_elsewhere(self, row: Row) -> None:
        self.check(row)
        self.assertEqual(row.taken_at, [row.second] * ROUNDS)
        self.check_log(row)

    def log_of_first(self, row: Row, mark: int) -> list[dict[str, Any]]:
        """The log's lines about the row's first exchange, from the `mark`-th line of the log on."""
        ip = f"{row.first}:{self.rounds.world.delivery_port}"
        return [line for line in self.rounds.relay.log.lines()[mark:] if ip in str(line.get("address"))]

    def check_log(self, row: Row) -> None:
        """What went wrong at the first exchange is in the log although the message got through."""
        self.assertTrue(self.log_of_first(row, 0), "nothing was logged of the first exchange")

    def check_same_host(self, row: Row) -> None:
        self.check(row)
        self.assertEqual(row.taken_at, [row.first] * ROUNDS)


def add_tests(rows: list[Row], check: str) -> None:
    def make(row: Row) -> Callable[[Any], None]:
        return lambda self: getattr(self, check)(row)
    for row in rows:
        setattr(FaultRows, f"test_{row.name}", make(row))


add_tests(AVOIDED, "check_avoided")
add_tests(LATE_SILENCE, "check_avoided")
add_tests(AT_ONCE, "check_elsewhere")
add_tests(SAME_HOST, "check_same_host")
add_tests(EITHER, "check")


class SlowButHonest(E2ETest):
    """A slow server is not a dead one."""

    limit_s = 60

    def test_the_only_exchange_may_greet_after_the_patience(self) -> None:
        world = self.world()
        late, _ = world.domain("late", "delay@GREETING=7")
        stuttering, _ = world.domain("stutter", "stutter@GREETING=0.2")
        relay = world.start()
        relay.send(SENDER, [f"r@{late}"], "late")
        relay.send(SENDER, [f"r@{stuttering}"], "stutter")
        world.wait_accepted("late")
        world.wait_accepted("stutter")
        self.assertEqual(relay.logged("deferred"), [])

    def test_a_slow_exchange_beats_a_decoy_that_always_says_4xx(self) -> None:
        world = self.world()
        domain, (slow, _) = world.domain("decoy", "delay@GREETING=7", "reply@RCPT=451 4.3.0 Come back")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "decoy")
        record = world.wait_accepted("decoy")[0]
        self.assertEqual(record["at"], world.exchanges.at(slow))
        self.assertEqual(relay.logged("deferred"), [])

    def test_both_slow_the_first_to_be_ready_carries_it_once(self) -> None:
        world = self.world()
        domain, _ = world.domain("both", "delay@GREETING=8", "delay@GREETING=7", "delay@GREETING=6")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "both")
        world.wait_accepted("both")
        relay.wait_logged("delivered")
        world.relay.terminate()
        self.assertEqual(len(world.exchanges.accepted("both")), 1)

    def test_a_race_in_the_body_sends_the_last_byte_once(self) -> None:
        world = self.world()
        domain, (first, second) = world.domain("race", "delay@DATA=20", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "race")
        relay.wait_logged("delivered")
        wait_until(lambda: world.exchanges.open_now(first) == 0, "the slow session to be let go")
        self.assertEqual(len(world.exchanges.accepted("race")), 1)
        self.assertEqual(world.exchanges.accepted("race")[0]["at"], world.exchanges.at(second))


class LargeContent(E2ETest):
    """A peer that reads as fast as its line goes is not silent, however long that takes."""

    limit_s = 120
    SIP = "sip@BODY=500000"  # 24 s for a large content, far beyond any patience

    def test_who_takes_it_steadily_is_neither_raced_nor_called_slow(self) -> None:
        world = self.world()
        domain, (first, second) = world.domain("sip", self.SIP, "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "sip", content_of(LARGE_BYTES))
        world.wait_accepted("sip")
        relay.wait_logged("delivered")
        self.assertEqual(relay.log.where(event="exchange_slow"), [])
        self.assertEqual(world.exchanges.connections(second), 0)
        self.assertEqual(world.exchanges.accepted("sip")[0]["at"], world.exchanges.at(first))

    def test_other_mail_does_not_wait_behind_it(self) -> None:
        world = self.world()
        domain, _ = world.domain("sip", self.SIP)
        relay = world.start()
        relay.send(SENDER, [f"large@{domain}"], "large", content_of(LARGE_BYTES))
        wait_until(lambda: world.exchanges.events.where(event="fault", kind="sip"), "the large content to be under way")
        relay.send(SENDER, [f"small@{domain}"], "small")
        line = relay.wait_logged("delivered", recipient=f"small@{domain}")[0]
        self.assertLess(line["age_ms"], 12_000)
        self.assertEqual(world.exchanges.accepted("large"), [])


class BehindTheDot(E2ETest):
    """RFC 1047: what is unknown is not sent elsewhere."""

    limit_s = 60

    def test_silence_behind_the_final_dot_makes_no_second_copy(self) -> None:
        world = self.world()
        domain, (first, second) = world.domain("dot", "lose@DOT=8", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "dot")
        line = relay.wait_logged("unknown")[0]
        self.assertEqual(line["recipient"], f"r@{domain}")
        self.assertEqual(world.exchanges.connections(second), 0)
        self.assertEqual(len(world.exchanges.accepted("dot")), 1)
        self.assertEqual(world.exchanges.connections(first), 1)

    def test_a_connection_lost_behind_the_dot_is_tried_again_at_the_same_exchange(self) -> None:
        world = self.world(retry={"first": "2s", "max": "4s"}, health={"down_first": "500ms"}, delivery={"patience_min": "5s"})
        domain, (first, second) = world.domain("lost", "close@DOT;first=1", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "lost")
        relay.wait_logged("unknown")
        record = world.wait_accepted("lost")[0]
        self.assertEqual(record["at"], world.exchanges.at(first))
        self.assertEqual(world.exchanges.connections(second), 0)


class Verdicts(E2ETest):
    """Replies that speak of the recipient or the message, not of the host."""

    limit_s = 40

    def world(self, **config: Any) -> World:
        return super().world(**merge({"delivery": PATIENT}, config))

    def test_5xx_at_rcpt_is_final_and_no_other_exchange_is_asked(self) -> None:
        world = self.world()
        domain, (_, second) = world.domain("no", "reply@RCPT/bob=550 5.1.1 No bob here", "good")
        relay = world.start()
        relay.send("", [f"ann@{domain}", f"bob@{domain}"], "no")
        line = relay.wait_logged("bounced")[0]
        self.assertEqual((line["recipient"], line["code"], line["status"]), (f"bob@{domain}", 550, "5.1.1"))
        relay.wait_logged("delivered", recipient=f"ann@{domain}")
        self.assertEqual(world.recipients_taken(), [f"ann@{domain}"])
        self.assertEqual(world.exchanges.connections(second), 0)

    def test_5xx_at_mail_data_and_dot_is_final(self) -> None:
        for phase in ("MAIL", "DATA", "DOT"):
            with self.subTest(phase=phase):
                world = self.world()
                domain, (_, second) = world.domain("no", f"reply@{phase}=554 5.6.0 Not this", "good")
                relay = world.start()
                relay.send("", [f"r@{domain}"], "no")
                relay.wait_logged("bounced", recipient=f"r@{domain}", code=554)
                self.assertEqual(world.exchanges.connections(second), 0)

    def test_a_verdict_in_the_midst_of_the_content_is_heard(self) -> None:
        """It says so and closes, while we write: what it said counts, not that the connection broke."""
        world = self.world()
        behaviour = "reply@BODY=552 5.3.4 Too big for us;no-size"
        domains = [world.domain(f"big{number}", behaviour)[0] for number in range(4)]
        relay = world.start()
        for domain in domains:
            relay.send("", [f"r@{domain}"], domain, content_of(LARGE_BYTES))
        for domain in domains:
            line = relay.wait_logged("bounced", recipient=f"r@{domain}")[0]
            self.assertEqual((line["code"], line["status"]), (552, "5.3.4"))

    def test_4xx_about_mailbox_or_policy_defers_without_asking_another(self) -> None:
        world = self.world()
        full, (_, full_second) = world.domain("full", "reply@RCPT=452 4.2.2 Mailbox full", "good")
        grey, (_, grey_second) = world.domain("grey", "reply@RCPT=450 4.7.1 Greylisted", "good")
        relay = world.start()
        for domain in (full, grey):
            relay.send(SENDER, [f"r@{domain}"], domain)
            relay.wait_logged("deferred", recipient=f"r@{domain}")
        self.assertEqual(world.exchanges.connections(full_second), 0)
        self.assertEqual(world.exchanges.connections(grey_second), 0)

    def test_other_4xx_asks_one_more_exchange_and_no_third(self) -> None:
        world = self.world()
        behaviour = "reply@RCPT=451 4.3.0 Later"
        domain, addresses = world.domain("later", behaviour, behaviour, behaviour)
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "later")
        relay.wait_logged("deferred", recipient=f"r@{domain}")
        self.assertEqual([world.exchanges.connections(a) for a in addresses], [1, 1, 0])

    def test_452_behind_some_recipients_sends_the_rest_in_the_next_transaction(self) -> None:
        world = self.world()
        domain, (_, second) = world.domain("many", "rcpt-max=3", "good")
        relay = world.start()
        recipients = [f"r{n}@{domain}" for n in range(10)]
        relay.send(SENDER, recipients, "many")
        wait_until(lambda: len(world.recipients_taken("many")) == 10, "all ten recipients")
        self.assertEqual(sorted(world.recipients_taken("many")), sorted(recipients))
        self.assertEqual([len(r["recipients"]) for r in world.exchanges.accepted("many")], [3, 3, 3, 1])
        self.assertEqual(world.exchanges.connections(second), 0)

    def test_all_exchanges_greeting_5xx_defers(self) -> None:
        world = self.world()
        domain, _ = world.domain("refusing", "reply@GREETING=554 5.7.1 Go away", "reply@GREETING=521 No mail")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "refusing")
        relay.wait_logged("deferred", recipient=f"r@{domain}")
        self.assertEqual(relay.logged("bounced"), [])

    def test_all_exchanges_greeting_5xx_bounces_where_so_configured(self) -> None:
        world = self.world(delivery={"bounce_on_refusing": True})
        domain, _ = world.domain("refusing", "reply@GREETING=554 5.7.1 Go away")
        relay = world.start()
        relay.send("", [f"r@{domain}"], "refusing")
        relay.wait_logged("bounced", recipient=f"r@{domain}")

    def test_all_exchanges_down_defers_and_all_were_tried(self) -> None:
        world = self.world()
        domain, addresses = world.domain("down", "close@GREETING", "reset@EHLO", "garbage@GREETING")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "down")
        relay.wait_logged("deferred", recipient=f"r@{domain}")
        self.assertEqual([world.exchanges.connections(a) for a in addresses], [1, 1, 1])

    def test_with_all_demoted_all_are_still_tried(self) -> None:
        world = self.world(retry={"first": "1s", "max": "1s"})
        domain, addresses = world.domain("ill", "garbage@GREETING;first=1", "garbage@GREETING")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "ill")
        record = world.wait_accepted("ill")[0]
        self.assertEqual(record["at"], world.exchanges.at(addresses[0]))

    def test_replies_injected_behind_starttls_are_dropped(self) -> None:
        world = self.world()
        domain, _ = world.domain("inject", "starttls;inject@STARTTLS=250-evil\r\n250 SIZE 1")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "inject")
        record = world.wait_accepted("inject")[0]
        self.assertTrue(record["bytes"] > 1)


class Probes(E2ETest):
    """A demoted host comes back by one real message, with the next exchange beside it."""

    limit_s = 40

    def test_one_probe_heals_a_host_and_its_mail_returns_to_it(self) -> None:
        world = self.world(health={"demote_first": "2s"}, delivery={"idle": "10ms"})
        flag = world.folder / "ill"
        flag.touch()
        domain, (first, _) = world.domain("heal", f"garbage@GREETING;while={flag}", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "ill-1")
        world.wait_accepted("ill-1")
        flag.unlink()
        self.assertEqual(world.exchanges.connections(first), 1)

        def heals() -> bool:
            name = f"probe-{time.monotonic_ns()}"
            relay.send(SENDER, [f"r@{domain}"], name)
            world.wait_accepted(name)
            return bool(world.exchanges.accepted(at=world.exchanges.at(first)))
        wait_until(heals, "mail at the first exchange again")

    def test_mail_parked_at_the_only_exchange_goes_when_a_probe_finds_it_well(self) -> None:
        """Nobody waits for the limits of the parked connections (5 minutes): a new one looks beside them."""
        world = self.world(health={"demote_first": "1s"})
        flag = world.folder / "ill"
        flag.touch()
        domain, (only,) = world.domain("only", f"silent@GREETING;while={flag}")
        relay = world.start()
        for number in range(LEFT_BEHIND):
            relay.send(SENDER, [f"r@{domain}"], f"parked-{number}")
        wait_until(lambda: relay.logged("exchange_slow"), "the exchange to be found out")
        flag.unlink()
        wait_until(lambda: len(world.exchanges.accepted()) == LEFT_BEHIND, "what was parked to go")
        self.assertEqual(len({taken["message_id"] for taken in world.exchanges.accepted()}), LEFT_BEHIND)
        relay.wait_logged("recovered")

    def test_mail_left_behind_goes_as_soon_as_one_message_gets_through(self) -> None:
        """The schedule would have it wait 5 minutes."""
        world = self.world(health={"down_first": "100ms"})
        flag = world.folder / "ill"
        flag.touch()
        domain, _ = world.domain("behind", f"close@GREETING;while={flag}")
        relay = world.start()
        for number in range(LEFT_BEHIND):
            relay.send(SENDER, [f"r@{domain}"], f"behind-{number}")
        wait_until(lambda: len(relay.logged("deferred")) >= LEFT_BEHIND, "all to be put off")
        flag.unlink()
        relay.send(SENDER, [f"r@{domain}"], "ahead")
        wait_until(lambda: len(world.exchanges.accepted()) == LEFT_BEHIND + 1, "what was left behind to go")
        self.assertEqual(len({taken["message_id"] for taken in world.exchanges.accepted()}), LEFT_BEHIND + 1)

    def test_a_hung_exchange_shared_by_many_domains_is_found_out_once(self) -> None:
        world = self.world(delivery={"idle": "10ms", "patience_min": "5s"}, health={"demote_first": "10m"})
        hung, well = world.exchange("silent@GREETING"), world.exchange("good")
        world.zone.add(f"hung A {hung}", f"well A {well}")
        count = 200
        for number in range(count):
            world.zone.add(f"d{number} MX 10 hung", f"d{number} MX 20 well")
        relay = world.start()
        for name in ("first", "second"):  # a stranger, then a suspect
            relay.send(SENDER, [f"r@d0.{ORIGIN}"], name)
            world.wait_accepted(name)
            wait_until(lambda: world.exchanges.open_now(well) == 0, "the kept connection to end")
        known = world.exchanges.connections(hung)
        with relay.connect() as client:
            for number in range(count):
                client.sendmail(SENDER, [f"r@d{number}.{ORIGIN}"],
                                f"Message-ID: <shared-{number}@{ORIGIN}>\r\n\r\nHello.\r\n")
        wait_until(lambda: len(world.exchanges.accepted()) == count + 2, "all domains' mail")
        self.assertEqual(world.exchanges.connections(hung), known)


class OpportunisticTls(E2ETest):
    limit_s = 30

    def test_a_host_that_insists_on_a_tls_it_cannot_do_now_bounces_nothing(self) -> None:
        """454 to STARTTLS, then 530 in clear: the first is temporary, so the mail is kept (a server that lost its
        session cache or entropy answers like this for a while)."""
        world = self.world()
        domain, _ = world.domain("one", "starttls;tls-only;reply@STARTTLS=454 4.7.0 TLS is not available now")
        relay = world.start()
        relay.send("", [f"r@{domain}"], "m")
        wait_until(lambda: relay.logged("deferred") or relay.logged("bounced"), "the outcome")
        self.assertEqual(relay.logged("bounced"), [])


class RequiredTls(E2ETest):
    """`delivery.tls: required` never falls back to clear text."""

    def test_an_exchange_without_tls_is_passed_over(self) -> None:
        world = self.world()
        domain, (first, _) = world.domain("tls", "good", "starttls;tls-only")
        world.exchanges.prepare_certificate()
        world.relay.write_config(delivery={"tls": "required", "tls_ca_file": str(world.exchanges.folder / "cert.pem")})
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "tls")
        line = relay.wait_logged("exchange_failed")[0]
        self.assertEqual(world.exchanges.accepted("tls", at=world.exchanges.at(first)), [])
        self.assertIn("TLS", str(line))

    def test_a_name_is_verified_though_another_one_of_the_same_address_was(self) -> None:
        """A resumed session is that of the name it was made for: the certificate is not looked at again."""
        world = self.world()
        good, (address,) = world.domain("tls", "starttls;tls-only")
        other = world.mx("other", address)  # the certificate is not for mx1.other
        world.exchanges.prepare_certificate()
        world.relay.write_config(delivery={"tls": "required", "tls_ca_file": str(world.exchanges.folder / "cert.pem")})
        relay = world.start()
        relay.send(SENDER, [f"r@{good}"], "good")
        world.wait_accepted("good")
        relay.send(SENDER, [f"r@{other}"], "other")
        line = relay.wait_logged("deferred", recipient=f"r@{other}")[0]
        self.assertEqual(line["local"], "LOCAL_TLS_FAILED")
        self.assertEqual(world.exchanges.accepted("other"), [])
        relay.send(SENDER, [f"r@{good}"], "again")
        world.wait_accepted("again")

    def test_an_address_literal_needs_a_certificate_for_the_address(self) -> None:
        world = self.world()
        _, (address,) = world.domain("tls", "starttls;tls-only")
        world.exchanges.prepare_certificate()
        world.relay.write_config(delivery={"tls": "required", "tls_ca_file": str(world.exchanges.folder / "cert.pem")})
        relay = world.start()
        relay.send(SENDER, [f"r@[{address}]"], "literal")
        line = relay.wait_logged("deferred")[0]
        self.assertEqual(line["local"], "LOCAL_TLS_FAILED")
        self.assertEqual(world.exchanges.accepted("literal"), [])

    def test_without_any_tls_the_message_is_deferred(self) -> None:
        world = self.world(delivery={"tls": "required"})
        domain, _ = world.domain("clear", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "clear")
        relay.wait_logged("deferred", recipient=f"r@{domain}")
        self.assertEqual(world.exchanges.accepted(), [])


if __name__ == "__main__":
    main()
