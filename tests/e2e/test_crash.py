"""Nothing lost, nothing doubled: under load, and when the process is killed in the middle of it.

A message that got its 250 is delivered. A recipient gets it once, save what RFC 1047 cannot rule out: when the process
dies between the exchange's 250 and the commit of that fact, a second copy is all that can be done. How many those are
is bounded by what was under way at that moment.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import random
import smtplib
import subprocess
import threading

from harness import BINARY, E2ETest, ORIGIN, Process, Relay, World, content_of, main, message, scaled, tool, up_to_data, wait_until

SENDER = f"sender@postbox.{ORIGIN}"


class Submitters:
    """Threads that submit until told to stop, and remember every message that got its 250."""

    def __init__(self, relay: Relay, recipients: list[str], threads: int, size: int) -> None:
        self.relay = relay
        self.recipients = recipients
        self.body = content_of(size)
        self.accepted: list[str] = []
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.number = 0
        self.threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _next(self) -> str:
        with self.lock:
            self.number += 1
            return f"load-{self.number}"

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                with self.relay.connect(5) as client:
                    while not self.stop.is_set():
                        name = self._next()
                        client.sendmail(SENDER, [random.choice(self.recipients)], message(name, self.body, SENDER))
                        with self.lock:
                            self.accepted.append(name)
            except (OSError, smtplib.SMTPException):
                self.stop.wait(0.05)  # the relay is down or coming up

    def count(self) -> int:
        with self.lock:
            return len(self.accepted)

    def finish(self) -> list[str]:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return self.accepted


class Unreadable(E2ETest):
    def assert_told(self, relay: Relay) -> None:
        process, relay.process = relay.process, None
        assert process is not None
        self.assertEqual(process.wait(), 74, process.stderr())
        said = process.stderr()
        for part in (relay.config["spool"]["path"], "cannot be read", "data.mdb was cut short", "dmesg"):
            self.assertIn(part, said)

    def test_a_spool_that_cannot_be_read_is_told_of_and_stops_the_relay(self) -> None:
        """A file that was cut short raises in whoever reads its map what a disk does that fails to read: SIGBUS."""
        world = self.world()
        flag = world.folder / "busy"
        flag.touch()
        domain, _ = world.domain("one", f"reply@MAIL=450 4.7.1 Not now;while={flag}")
        relay = world.start()
        for number in range(5):
            relay.send(SENDER, [f"r@{domain}"], f"m{number}", content_of(300_000))
        wait_until(lambda: [row["attempts"] for row in relay.json("queue", "list")] == [1] * 5, "stored outcomes")
        data = pathlib.Path(relay.config["spool"]["path"]) / "data.mdb"
        whole = data.read_bytes()
        flag.unlink()
        os.truncate(data, 64 * 1024)
        relay.run("queue", "retry", "--all")
        self.assert_told(relay)
        relay.process = Process([BINARY, "serve", "-c", relay.config_path], relay.folder, "onward-cut", relay.env)
        self.assert_told(relay)
        data.write_bytes(whole)  # what was in the spool goes on from there
        relay.start()
        relay.run("queue", "retry", "--all")
        for number in range(5):
            world.wait_accepted(f"m{number}")


class Killed(E2ETest):
    limit_s = 120

    def load(self, behaviour: str, domains: int) -> tuple[World, Relay, list[str]]:
        world = self.world(delivery={"connections_per_destination": 1}, drain_timeout="1m")
        addresses = [world.exchange(behaviour) for _ in range(4)]
        names = [world.mx(f"d{n}", addresses[n % 4]) for n in range(domains)]
        return world, world.start(), [f"r@{name}" for name in names]

    def check_all_arrive(self, world: World, accepted: list[str]) -> None:
        def missing() -> set[str]:
            return {f"<{name}@{ORIGIN}>" for name in accepted} - {r["message_id"] for r in world.exchanges.accepted()}
        wait_until(lambda: not missing(), "every message that got its 250", 120, pause=0.05)

    def duplicates(self, world: World) -> int:
        return sum(len(record["duplicate_for"]) for record in world.exchanges.accepted())

    def test_killed_again_and_again_under_load_nothing_is_lost(self) -> None:
        world, relay, recipients = self.load("good", 20)
        submitters = Submitters(relay, recipients, 8, 5000)
        self.addCleanup(submitters.finish)
        kills = 5
        for _ in range(kills):
            goal = submitters.count() + scaled(300)
            wait_until(lambda goal=goal: submitters.count() >= goal, "load to get going")
            relay.kill()
            relay.start()
        accepted = submitters.finish()
        self.check_all_arrive(world, accepted)
        # What was under way at each kill: a message on each connection, and the outcomes of the batch being committed,
        # which grows with the time that the disk takes.
        self.assertLessEqual(self.duplicates(world), kills * 20 * 5)

    def test_killed_before_any_delivery_the_queue_is_whole(self) -> None:
        world = self.world()
        flag = world.folder / "closed"
        flag.touch()
        domain, _ = world.domain("later", f"silent@GREETING;while={flag}")
        relay = world.start()
        names = [f"m{n}" for n in range(100)]
        with relay.connect() as client:
            for name in names:
                client.sendmail(SENDER, [f"a@{domain}", f"b@{domain}"], message(name))
        relay.kill()
        flag.unlink()
        relay.start()
        wait_until(lambda: len(world.recipients_taken()) >= 200, "all recipients")
        for name in names:
            self.assertEqual(sorted(world.recipients_taken(name)), [f"a@{domain}", f"b@{domain}"])

    def test_killed_in_the_middle_of_large_submissions_no_fragment_is_sent(self) -> None:
        world, relay, recipients = self.load("good", 1)
        body = content_of(3_000_000)
        half = message("half", body)[:2_000_000]
        for _ in range(5):
            sock = relay.socket()
            self.addCleanup(sock.close)
            sock.recv(512)
            sock.sendall(up_to_data(SENDER, recipients[0]) + half)
        relay.send(SENDER, recipients, "whole", body)
        relay.kill()
        relay.start()
        world.wait_accepted("whole")
        relay.send(SENDER, recipients, "last")
        world.wait_accepted("last")
        self.assertEqual(world.exchanges.accepted("half"), [])
        relay.wait_drained()

    def test_a_clean_restart_doubles_nothing(self) -> None:
        world, relay, recipients = self.load("delay@DOT=0.02", 10)
        submitters = Submitters(relay, recipients, 4, 3000)
        self.addCleanup(submitters.finish)
        for _ in range(3):
            goal = submitters.count() + scaled(200)
            wait_until(lambda goal=goal: submitters.count() >= goal, "load to get going")
            relay.restart()
        accepted = submitters.finish()
        self.check_all_arrive(world, accepted)
        self.assertEqual(self.duplicates(world), 0)


class Load(E2ETest):
    """20,000 messages of 10 KB by smtp-source through the relay to smtp-sink over 200 domains."""

    limit_s = 150
    domains = 200

    def prepare(self) -> tuple[World, Relay]:
        self.each = scaled(100)
        world = self.world()
        self.sinks = [world.sink() for _ in range(2)]
        for number in range(self.domains):
            world.mx(f"d{number}", self.sinks[number % 2].address)
        return world, world.start()

    def source(self, relay: Relay, number: int) -> bool:
        command = [tool("smtp-source"), "-s", "5", "-m", str(self.each), "-l", "10240", "-N", "-f", SENDER,
                   "-t", f"r@d{number}.{ORIGIN}", f"127.0.0.1:{relay.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        return done.returncode == 0

    def delivered(self) -> list[str]:
        return [name for sink in self.sinks for name in sink.recipients()]

    def count(self) -> int:
        return sum(sink.count() for sink in self.sinks)

    def test_each_is_delivered_once(self) -> None:
        _, relay = self.prepare()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertTrue(all(pool.map(lambda n: self.source(relay, n), range(self.domains))))
        total = self.each * self.domains
        wait_until(lambda: self.count() >= total, f"{total} messages", limit=600, pause=0.2)
        relay.terminate()
        names = self.delivered()
        self.assertEqual((len(names), len(set(names))), (total, total))

    def test_killed_in_the_middle_every_accepted_message_is_delivered(self) -> None:
        _, relay = self.prepare()
        total = self.each * self.domains
        killed = threading.Event()

        def kill_in_the_middle() -> None:
            wait_until(lambda: self.count() >= total // 10, "a tenth of the messages", 600, pause=0.05)
            relay.kill()
            killed.set()
        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: killed.is_set() or self.source(relay, n), range(self.domains)))
        killer.join()
        accepted = relay.logged("accepted")
        relay.start()
        relay.wait_drained(600)
        # The log may lack the last lines before the kill; every line it has is a message that got its 250.
        self.assertGreaterEqual(len(set(self.delivered())), len(accepted))


if __name__ == "__main__":
    main()
