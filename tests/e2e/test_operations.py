"""What an operator does: check, start, look, reload, rotate, stop. And what goes wrong with it."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import stat
import subprocess
import threading
import time

from harness import (BINARY, E2ETest, ORIGIN, PATIENT, Process, Relay, WAIT_LIMIT, World, main, message, onward, to_yaml,
                     wait_until)

SENDER = f"sender@postbox.{ORIGIN}"


class Configuration(E2ETest):
    """Every mistake is told with file, line, key and what was expected."""

    limit_s = 20

    def check(self, text: str) -> subprocess.CompletedProcess[str]:
        world = self.world()
        path = world.folder / "check.yaml"
        path.write_text(text)
        self.path = str(path)
        return onward("check-config", path)

    def refused(self, text: str, line: int, *words: str) -> None:
        done = self.check(text)
        self.assertNotEqual(done.returncode, 0, "it was accepted")
        self.assertIn(f"{self.path}:{line}:", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_a_good_file_is_accepted(self) -> None:
        world = self.world()
        done = onward("check-config", world.relay.config_path)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_only_a_hostname_is_enough(self) -> None:
        self.assertEqual(self.check("hostname: relay.example.net\n").returncode, 0)

    def test_an_unknown_key_is_refused_and_the_nearest_named(self) -> None:
        self.refused("hostname: relay.example.net\ndelivery:\n  pot: 25\n", 3, "pot", "port")

    def test_a_bad_unit_is_refused(self) -> None:
        self.refused("hostname: relay.example.net\nretry:\n  first: 5 parsecs\n", 3, "retry.first", "5 parsecs")

    def test_a_duration_without_unit_is_refused(self) -> None:
        self.refused("hostname: relay.example.net\nretry:\n  first: 300\n", 3, "retry.first")

    def test_a_value_out_of_range_is_refused(self) -> None:
        self.refused("hostname: relay.example.net\nworkers:\n  threads: 100000\n", 3, "workers.threads")

    def test_values_that_contradict_each_other_are_refused(self) -> None:
        self.refused("hostname: relay.example.net\ndelivery:\n  patience_min: 9s\n  patience_max: 2s\n", 3, "patience")

    def test_broken_yaml_is_refused(self) -> None:
        self.refused("hostname: relay.example.net\ndelivery: [\n", 3)

    def test_a_bad_address_is_refused(self) -> None:
        text = "hostname: relay.example.net\nsubmission:\n  listen:\n    - address: 300.1.2.3:25\n"
        self.refused(text, 4, "300.1.2.3")

    def test_a_missing_file_is_told(self) -> None:
        done = onward("serve", "-c", "/nowhere/onward.yaml")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("/nowhere/onward.yaml", done.stderr)

    def test_serve_refuses_what_check_config_refuses(self) -> None:
        world = self.world()
        path = world.folder / "bad.yaml"
        path.write_text("hostname: relay.example.net\nno_such_key: 1\n")
        done = onward("serve", "-c", path)
        self.assertEqual(done.returncode, 78)  # EX_CONFIG
        self.assertIn("no_such_key", done.stderr)


class Starting(E2ETest):
    limit_s = 30

    def try_start(self, world: World, relay_config: str) -> subprocess.CompletedProcess[str]:
        path = world.folder / "second.yaml"
        path.write_text(relay_config)
        return onward("serve", "-c", path)

    def test_a_second_relay_on_one_spool_is_refused_and_the_first_serves_on(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        assert relay.process is not None
        other = Relay(world._subfolder("other"), {"spool": relay.config["spool"]})
        done = self.try_start(world, to_yaml(other.config))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(str(relay.process.pid), done.stderr)
        relay.send(SENDER, [f"r@{domain}"], "m")
        world.wait_accepted("m")

    def test_a_taken_port_is_told(self) -> None:
        world = self.world()
        relay = world.start()
        other = Relay(world._subfolder("other"), {"submission": relay.config["submission"]})
        done = self.try_start(world, to_yaml(other.config))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"127.0.0.1:{relay.port}", done.stderr)

    def test_the_spool_is_nobody_elses_business(self) -> None:
        world = self.world()
        relay = world.start()
        self.assertEqual(stat.S_IMODE(os.stat(relay.config["spool"]["path"]).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(relay.config["control"]["socket"]).st_mode), 0o600)

    def test_started_without_standard_descriptors_it_gives_them_to_nothing_else(self) -> None:
        world = self.world(log={"path": "-"})
        relay = world.relay
        relay.process = Process(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', BINARY, "serve", "-c", relay.config_path],
                                relay.folder, "onward-closed")
        wait_until(relay._greets, "the relay's greeting")
        for fd in (0, 1, 2):
            self.assertEqual(os.readlink(f"/proc/{relay.process.pid}/fd/{fd}"), "/dev/null")

    def test_version_and_help(self) -> None:
        for words in (("--version",), ("help",), ("help", "trace"), ("trace", "--help"), ("check-config", "--help")):
            done = onward(*words)
            self.assertEqual(done.returncode, 0)
            self.assertIn("onward", done.stdout.lower())


class Reloading(E2ETest):
    limit_s = 30

    def hangup(self, relay: Relay) -> None:
        assert relay.process is not None
        relay.process.signal(signal.SIGHUP)

    def test_a_reload_takes_new_limits(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        relay.write_config(submission={"recipients_max": 1})
        self.hangup(relay)
        relay.wait_logged("reloaded")

        def limited() -> bool:
            with relay.connect() as client:
                client.ehlo()
                client.mail(SENDER)
                return [client.rcpt(f"{n}@{domain}")[0] for n in range(2)] == [250, 452]
        wait_until(limited, "the new limit to hold")

    def test_a_rotation_of_logs_a_day_leaves_room_for_changes_for_years(self) -> None:
        world = self.world()
        relay = world.start()
        for n in range(70):
            self.hangup(relay)
            relay.wait_logged("reloaded", n + 1)
        relay.write_config(submission={"recipients_max": 1})
        self.hangup(relay)
        relay.wait_logged("reloaded", 71)
        self.assertEqual(relay.logged("reload_refused"), [])

    def test_a_bad_file_is_refused_and_the_old_one_stays(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        good = relay.config_path.read_text()
        relay.config_path.write_text(good + "no_such_key: 1\n")
        self.hangup(relay)
        relay.wait_logged("reload_refused")
        relay.send(SENDER, [f"r@{domain}"], "m")
        world.wait_accepted("m")

    def test_what_a_reload_cannot_change_is_named(self) -> None:
        world = self.world()
        relay = world.start()
        relay.write_config(workers={"threads": 1})
        self.hangup(relay)
        self.assertIn("threads", json.dumps(relay.wait_logged("reload_refused")))

    def test_the_log_is_reopened_behind_a_rotation(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "before")
        relay.wait_logged("delivered")
        rotated = relay.log_path.with_suffix(".1")
        relay.log_path.rename(rotated)
        self.hangup(relay)
        wait_until(relay.log_path.exists, "the new log file")
        relay.send(SENDER, [f"r@{domain}"], "after")
        wait_until(lambda: "delivered" in relay.log_path.read_text(), "a line in the new file")
        for path in (rotated, relay.log_path):
            for line in path.read_text().splitlines():
                json.loads(line)


class Draining(E2ETest):
    """SIGTERM: what is under way is finished, nothing new begins, nothing is lost."""

    limit_s = 40

    def test_a_message_under_way_out_is_finished(self) -> None:
        world = self.world(drain_timeout="1m")
        domain, (address,) = world.domain("one", "delay@DOT=2")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        wait_until(lambda: world.exchanges.events.where(event="body"), "the body to be sent")
        relay.terminate()
        relay.start()
        self.assertEqual(len(relay.logged("delivered")), 1)
        self.assertEqual(relay.json("queue", "list"), [])
        self.assertEqual(world.exchanges.connections(address), 1)

    def test_a_message_under_way_in_gets_its_250_and_is_kept(self) -> None:
        world = self.world(drain_timeout="1m")
        domain, _ = world.domain("one", "good")
        relay = world.start()
        client = relay.connect()
        client.ehlo()
        client.mail(SENDER)
        client.rcpt(f"r@{domain}")
        self.assertEqual(client.docmd("DATA")[0], 354)
        assert relay.process is not None
        relay.process.signal(signal.SIGTERM)
        relay.wait_logged("draining")
        client.send(message("m") + b".\r\n")
        self.assertEqual(client.getreply()[0], 250)
        self.assertEqual(client.getreply()[0], 421)  # the transaction is over: goodbye
        client.close()
        relay.terminate()
        relay.start()
        world.wait_accepted("m")

    def test_idle_clients_are_told_and_new_ones_refused(self) -> None:
        world = self.world()
        hold, _ = world.domain("hold", "delay@DOT=3")
        relay = world.start()
        idle = relay.socket()
        self.addCleanup(idle.close)
        idle.recv(512)
        relay.send(SENDER, [f"r@{hold}"], "m")
        wait_until(lambda: world.exchanges.events.where(event="body"), "the body to be sent")
        assert relay.process is not None
        relay.process.signal(signal.SIGTERM)
        self.assertRegex(idle.recv(512), rb"^421 ")

        def refused() -> bool:
            try:
                with relay.socket(2) as sock:
                    return not sock.recv(512).startswith(b"220")
            except (ConnectionError, TimeoutError):
                return True
        wait_until(refused, "new clients to be refused")
        relay.terminate()

    def test_the_drain_ends_at_its_limit(self) -> None:
        world = self.world(drain_timeout="1s")
        domain, _ = world.domain("one", "silent@DOT")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        wait_until(lambda: world.exchanges.events.where(event="body"), "the body to be sent")
        began = time.monotonic()
        relay.terminate()
        self.assertLess(time.monotonic() - began, WAIT_LIMIT)  # the exchange's limit would be ten minutes
        relay.start()
        self.assertIn(domain, str(relay.json("queue", "list")))

    def test_a_second_sigterm_ends_at_once(self) -> None:
        world = self.world(drain_timeout="10m")
        domain, _ = world.domain("one", "silent@DOT")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        wait_until(lambda: world.exchanges.events.where(event="body"), "the body to be sent")
        assert relay.process is not None
        relay.process.signal(signal.SIGTERM)
        relay.wait_logged("draining")
        began = time.monotonic()
        relay.terminate()
        self.assertLess(time.monotonic() - began, WAIT_LIMIT)


class Looking(E2ETest):
    """The control socket and the commands that ask over it."""

    limit_s = 40

    def ask(self, relay: Relay, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_LIMIT)
            sock.connect(relay.config["control"]["socket"])
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while block := sock.recv(65536):
                    answer += block
            except (ConnectionError, TimeoutError):
                pass
            return answer

    def is_demoted(self, relay: Relay, address: str) -> bool:
        entries = [str(entry).lower() for entry in relay.json("health", "list")]
        return any(address in entry and "demoted" in entry for entry in entries)

    def test_health_shows_demotes_and_clears(self) -> None:
        world = self.world(delivery={"idle": "10ms"})
        domain, (first, second) = world.domain("one", "garbage@GREETING", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m1")
        world.wait_accepted("m1")
        self.assertTrue(self.is_demoted(relay, first))
        self.assertEqual(relay.run("health", "demote", second).returncode, 0)
        self.assertEqual(relay.run("health", "clear", first).returncode, 0)
        self.assertTrue(self.is_demoted(relay, second))
        self.assertFalse(self.is_demoted(relay, first))

    def test_route_shows_the_health_and_the_order_it_makes(self) -> None:
        world = self.world(delivery=PATIENT)
        domain, (first, second) = world.domain("one", "good", "good")
        relay = world.start()
        self.assertEqual(relay.run("health", "demote", first).returncode, 0)
        done = relay.run("route", domain)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("demoted", done.stdout.lower())
        relay.send(SENDER, [f"r@{domain}"], "m")
        self.assertEqual(world.wait_accepted("m")[0]["at"], world.exchanges.at(second))
        self.assertEqual(world.exchanges.connections(first), 0)

    def test_a_long_queue_is_listed_in_part_and_says_so(self) -> None:
        world = self.world()
        domain = world.mx("one", world.silent_address())
        relay = world.start()
        for number in range(3):
            relay.send(SENDER, [f"r{n}@{domain}" for n in range(500)], f"m{number}")
        relay.wait_logged("deferred", 1500)
        shown = relay.run("queue", "list").stdout
        self.assertEqual(shown.count(f"@{domain}"), 1000)
        self.assertIn("1000 recipients, and there are more", shown)
        shown = relay.run("queue", "list", "--limit", "7").stdout
        self.assertEqual(shown.count(f"@{domain}"), 7)
        self.assertIn("7 recipients, and there are more", shown)
        shown = relay.run("queue", "list", "--limit", "1500").stdout
        self.assertEqual(shown.count(f"@{domain}"), 1500)
        self.assertIn("1500 recipients.", shown)
        self.assertEqual(len(relay.json("queue", "list")), 1500)
        self.assertEqual(len(relay.json("queue", "list", "--limit", "3")), 3)
        for bad in ("0", "-1", "many", "99999999999999999999"):
            self.assertIn("usage", relay.run("queue", "list", "--limit", bad).stderr)

    def test_an_id_that_is_not_queued_is_told_at_once(self) -> None:
        relay = self.world().start()
        done = relay.run("queue", "retry", "00000000000000ab")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nothing in the queue matches", done.stderr)

    def test_without_a_relay_commands_say_so(self) -> None:
        world = self.world()
        done = world.relay.run("queue", "list")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(world.relay.config["control"]["socket"], done.stderr)

    def test_a_stale_socket_is_replaced(self) -> None:
        world = self.world()
        relay = world.start()
        relay.kill()
        relay.start()
        self.assertEqual(relay.json("queue", "list"), [])

    def test_hostile_requests_harm_nothing(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        for data in (b"", b"\n\n\n", b"not json\n", b'{"op":"no.such"}\n', b'{"op":', b"x" * 200_000,
                     b'{"op":"queue.show","id":-1}\n', b'{"op":"queue.list","limit":-5,"domain":{}}\n',
                     b"[" * 50_000 + b"\n", b'{"op":"route","domain":"\\u0000"}\n'):
            answer = self.ask(relay, data)
            if data.startswith((b"not json", b'{"op":"no.such')):
                self.assertIn(b"error", answer)
        relay.send(SENDER, [f"r@{domain}"], "m")
        world.wait_accepted("m")
        relay.wait_drained()

    def test_many_silent_control_clients_do_not_stop_mail(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX)
            self.addCleanup(sock.close)
            sock.settimeout(2)
            try:
                sock.connect(relay.config["control"]["socket"])
            except OSError:
                break
        relay.send(SENDER, [f"r@{domain}"], "m")
        world.wait_accepted("m")

    def test_a_client_that_leaves_in_the_middle_of_a_long_list(self) -> None:
        world = self.world(retry={"first": "2h"})
        relay = world.start()
        with relay.connect() as client:
            for number in range(300):
                client.sendmail("", [f"r{number}@broken.test-zone.{ORIGIN}"], message(f"m{number}"))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(relay.config["control"]["socket"])
            sock.sendall(b'{"op":"queue.list"}\n')
            sock.recv(10)
        self.assertEqual(len(relay.json("queue", "list")), 300)


class Sending(E2ETest):
    """`onward send`, the sendmail of this relay."""

    limit_s = 30

    def submit(self, relay: Relay, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return onward("send", "-c", relay.config_path, *arguments, stdin=content)

    def test_recipients_as_arguments(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        content = f"Subject: hi\nMessage-ID: <m@{ORIGIN}>\n\nHello.\n.\nEnd.\n"
        done = self.submit(relay, content, "-i", "-f", SENDER, f"r@{domain}")
        self.assertEqual(done.returncode, 0, done.stderr)
        record = world.wait_accepted("m")[0]
        self.assertEqual((record["sender"], record["recipients"]), (SENDER, [f"r@{domain}"]))
        self.assertTrue(world.exchanges.content(record).endswith(b"Hello.\r\n.\r\nEnd.\r\n"))

    def test_recipients_from_the_header_and_bcc_is_removed(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        header = f"To: Ann <a@{domain}>,\n b@{domain}\nBcc: c@{domain}\nMessage-ID: <m@{ORIGIN}>\n"
        done = self.submit(relay, f"{header}\nHello.\n", "-t", "-f", SENDER)
        self.assertEqual(done.returncode, 0, done.stderr)
        wait_until(lambda: len(world.recipients_taken("m")) == 3, "three recipients")
        content = world.exchanges.content(world.exchanges.accepted("m")[0])
        self.assertNotIn(f"c@{domain}".encode(), content)

    def test_a_refusal_is_told_with_the_relays_reply(self) -> None:
        world = self.world()
        relay = world.start()
        done = self.submit(relay, "Subject: x\n\nHello.\n", "-f", SENDER, "no-domain-here")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"5\d\d")

    def test_internationalized_addresses_need_no_option(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        done = self.submit(relay, f"Subject: x\nMessage-ID: <m@{ORIGIN}>\n\nHello.\n", "-f", SENDER, f"jörg@{domain}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(world.wait_accepted("m")[0]["recipients"], [f"jörg@{domain}"])

    def test_a_relay_that_goes_in_the_middle_is_a_temporary_failure(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    connection.sendall(b"220 hi\r\n")
                    for line in lines:
                        connection.sendall(b"354 go\r\n" if line == b"DATA\r\n" else b"250 ok\r\n")
                        if line == b"DATA\r\n":
                            return
            thread = threading.Thread(target=serve)
            thread.start()
            done = onward("send", "--server", f"127.0.0.1:{listener.getsockname()[1]}", "-f", SENDER, "a@example.org",
                          stdin="Subject: x\n\n" + 300_000 * "0123456789\n")
            thread.join()
        self.assertEqual((done.returncode, "broke off" in done.stderr), (75, True), done.stderr)

    def test_a_server_that_is_no_address_is_told_as_such(self) -> None:
        done = onward("send", "--server", "relay1", "-f", SENDER, "a@example.org", stdin="Subject: x\n\nx\n")
        self.assertEqual((done.returncode, "not an address and port" in done.stderr), (64, True), done.stderr)

    def test_without_a_relay_it_is_a_temporary_failure(self) -> None:
        world = self.world()
        done = self.submit(world.relay, "Subject: x\n\nHello.\n", "-f", SENDER, f"r@one.{ORIGIN}")
        self.assertEqual(done.returncode, 75)  # EX_TEMPFAIL


class NothingHangs(E2ETest):
    limit_s = 30

    def test_an_idle_relay_sleeps(self) -> None:
        """No timer or poll of ours keeps a CPU awake when there is nothing to do."""
        world = self.world()
        relay = world.start()
        assert relay.process is not None
        path = f"/proc/{relay.process.pid}/stat"

        def ticks() -> int:
            with open(path, encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])
        def sleeps() -> bool:
            """100 ms of CPU in 3 s are a hundred times what it takes."""
            before = ticks()
            time.sleep(3)
            return ticks() - before <= 10
        wait_until(sleeps, "three quiet seconds behind what starting up has to do")

    def test_clients_that_vanish_leave_no_descriptors(self) -> None:
        world = self.world()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        assert relay.process is not None
        folder = f"/proc/{relay.process.pid}/fd"
        relay.send(SENDER, [f"r@{domain}"], "first")
        world.wait_accepted("first")
        for _ in range(300):
            with relay.socket() as sock:
                sock.sendall(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n")
        with self.assertRaises(smtplib.SMTPException), relay.connect() as client:
            client.sendmail(SENDER, ["bad recipient"], message("bad"))
        before = 60
        wait_until(lambda: len(os.listdir(folder)) < before, f"fewer than {before} descriptors")


if __name__ == "__main__":
    main()
