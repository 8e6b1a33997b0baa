"""Every limit holds, says so with the right reply, and leaves everybody else served."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import select
import smtplib
import socket
import struct
import threading
import time
from typing import Any

from harness import (E2ETest, ORIGIN, RELAY_NAME, Relay, SANITIZED, WAIT_LIMIT, World, content_of, main, message, up_to_data,
                     wait_until)

SENDER = f"sender@postbox.{ORIGIN}"


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other end closes; a reset ends it as well."""
    data = b""
    try:
        while block := sock.recv(65536):
            data += block
    except ConnectionError:
        pass
    return data


def say_until_told(sock: socket.socket, piece: bytes, pause_s: float) -> bytes:
    """Sends the piece again and again until there is an answer, and returns all of that."""
    while not select.select([sock], [], [], pause_s)[0]:
        with contextlib.suppress(ConnectionError):  # closed meanwhile: what was said before that can be read
            sock.sendall(piece)
    return read_all(sock)


def cpu_seconds(pid: int) -> float:
    """Of processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(pid: int) -> dict[str, int]:
    """How many descriptors each epoll of a process watches."""
    counts = {}
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(fd) == "anon_inode:[eventpoll]":
            counts[fd.name] = pathlib.Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().count("tfd:")
    return counts


class LimitTest(E2ETest):
    limit_s = 40

    def relay(self, **config: Any) -> tuple[World, Relay, str]:
        """A relay with these limits and one domain with a good exchange."""
        world = self.world(**config)
        domain, _ = world.domain("one", "good")
        return world, world.start(), f"r@{domain}"

    def still_serves(self, world: World, relay: Relay, recipient: str, name: str = "others") -> None:
        relay.send(SENDER, [recipient], name)
        world.wait_accepted(name)


class MessageLimits(LimitTest):
    def test_a_declared_size_over_the_limit_is_refused_at_mail(self) -> None:
        world, relay, recipient = self.relay(submission={"message_size_max": "100KB"})
        with relay.connect() as client:
            client.ehlo()
            self.assertEqual(client.esmtp_features["size"], "100000")
            code, text = client.mail(SENDER, ["SIZE=100001"])
            self.assertEqual((code, text[:5]), (552, b"5.3.4"))
        self.still_serves(world, relay, recipient)

    def test_a_content_over_the_limit_is_refused_and_the_session_goes_on(self) -> None:
        world, relay, recipient = self.relay(submission={"message_size_max": "100KB"})
        with relay.connect() as client:
            client.ehlo()
            client.mail(SENDER)
            client.rcpt(recipient)
            code, text = client.data(message("big", content_of(300_000)))
            self.assertEqual((code, text[:5]), (552, b"5.3.4"))
            client.sendmail(SENDER, [recipient], message("fits"))
        world.wait_accepted("fits")
        self.assertEqual(world.exchanges.accepted("big"), [])

    def test_bdat_over_the_limit_is_refused(self) -> None:
        world, relay, recipient = self.relay(submission={"message_size_max": "100KB"})
        with relay.connect() as client:
            client.ehlo()
            client.mail(SENDER)
            client.rcpt(recipient)
            content = content_of(200_000).encode()
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
            self.assertEqual(client.getreply()[0], 552)
            self.assertEqual(client.noop()[0], 250)
        self.still_serves(world, relay, recipient)

    def test_recipients_over_the_limit_get_452(self) -> None:
        world, relay, recipient = self.relay(submission={"recipients_max": 3})
        with relay.connect() as client:
            client.ehlo()
            client.mail(SENDER)
            replies = [client.rcpt(f"{n}{recipient}") for n in range(5)]
            self.assertEqual([code for code, _ in replies], [250, 250, 250, 452, 452])
            self.assertEqual(replies[3][1][:5], b"4.5.3")
            self.assertEqual(client.data(message("three"))[0], 250)
        wait_until(lambda: len(world.recipients_taken("three")) == 3, "three recipients")

    def test_a_line_over_the_limit_is_refused(self) -> None:
        world, relay, recipient = self.relay()
        with relay.connect() as client, self.assertRaises(smtplib.SMTPDataError):
            client.sendmail(SENDER, [recipient], message("long", "x" * 5000 + "\r\n"))
        self.still_serves(world, relay, recipient)

    def test_an_endless_command_line_costs_no_memory_and_is_refused(self) -> None:
        world, relay, recipient = self.relay()
        before = relay.resident_kb()
        with relay.socket() as sock:
            sock.recv(512)
            try:
                for _ in range(5000):
                    sock.sendall(b"x" * 10_000)
                sock.sendall(b"\r\nQUIT\r\n")
            except ConnectionError:
                pass  # cut off on the way is as good
            self.assertRegex(read_all(sock)[:3], rb"^([45]..)?$")
        if not SANITIZED:
            self.assertLess(relay.resident_kb() - before, 5000)
        self.still_serves(world, relay, recipient)

    def test_too_many_bad_commands_end_the_session(self) -> None:
        world, relay, recipient = self.relay(submission={"bad_commands_max": 5})
        with relay.socket() as sock:
            sock.recv(512)
            sock.sendall(b"FOO\r\n" * 20)
            answer = read_all(sock)
        self.assertLessEqual(answer.count(b"500 "), 6)
        self.assertIn(b"421 ", answer)
        self.still_serves(world, relay, recipient)


class Room(LimitTest):
    def test_without_room_on_the_disk_mail_gets_452(self) -> None:
        world = self.world(spool={"free_floor": "90TB"})
        relay = world.start()
        with relay.connect() as client:
            client.ehlo()
            code, text = client.mail(SENDER)
            self.assertEqual((code, text[:5]), (452, b"4.3.1"))

    def test_a_full_spool_refuses_and_loses_nothing(self) -> None:
        world = self.world(spool={"map_size": "10MB"})
        flag = world.folder / "full"
        flag.touch()
        domain, _ = world.domain("one", f"reply@MAIL=450 4.7.1 Not now;while={flag}")
        relay = world.start()
        accepted = []
        code, text = 250, b""
        for number in range(200):
            with relay.connect() as client:
                client.ehlo()
                code, text = client.mail(SENDER)
                if code == 250:
                    code, text = client.rcpt(f"r@{domain}")
                if code == 250:
                    code, text = client.data(message(f"m{number}", content_of(100_000)))
            if code != 250:
                break
            accepted.append(f"m{number}")
        self.assertEqual((code, text[:5]), (452, b"4.3.1"))
        self.assertGreater(len(accepted), 5)
        relay.wait_logged("deferred", len(accepted))
        flag.unlink()
        relay.restart()
        relay.run("queue", "retry", "--all")
        for name in accepted:
            world.wait_accepted(name)
        wait_until(lambda: self.is_taken_again(relay), "room again")

    def is_taken_again(self, relay: Relay) -> bool:
        with relay.connect() as client:
            client.ehlo()
            return client.mail(SENDER)[0] == 250


class WhoMaySubmit(LimitTest):
    def greeting(self, relay: Relay, data: bytes = b"QUIT\r\n") -> bytes:
        with relay.socket() as sock:
            sock.sendall(data)
            return read_all(sock)

    def test_a_network_that_is_not_allowed_gets_554(self) -> None:
        world = self.world(submission={"allow": ["192.0.2.0/24"]})
        relay = world.start()
        self.assertRegex(self.greeting(relay), rb"^554 5\.7\.1 ")

    def test_connections_over_the_limit_get_421_and_the_others_are_served(self) -> None:
        world, relay, recipient = self.relay(submission={"connections_max": 10})
        self.hold_and_check(world, relay, recipient)

    def test_connections_of_one_client_over_the_limit_get_421(self) -> None:
        world, relay, recipient = self.relay(submission={"connections_per_client_max": 10})
        self.hold_and_check(world, relay, recipient)

    def hold_and_check(self, world: World, relay: Relay, recipient: str) -> None:
        relay.wait_unoccupied()
        held = [relay.connect() for _ in range(10)]
        self.assertRegex(self.greeting(relay), rb"^421 ")
        held[0].sendmail(SENDER, [recipient], message("held"))
        world.wait_accepted("held")
        for client in held:
            client.quit()

        def greeted() -> bool:
            return self.greeting(relay).startswith(b"220 ")
        wait_until(greeted, "room for one more")


class Proxy(LimitTest):
    """The PROXY protocol: only from the load balancers, and then it is the client's address that counts."""

    V2 = b"\r\n\r\n\0\r\nQUIT\n"

    def proxied(self, **submission: Any) -> Relay:
        world = self.world()
        listen = [{"address": f"127.0.0.1:{world.relay.port}", "proxy_protocol": True}]
        world.relay.write_config(submission={"listen": listen, "proxy_from": ["127.0.0.0/8"], "allow": ["192.0.2.0/24"],
                                             **submission})
        return world.start()

    def talk(self, relay: Relay, data: bytes) -> bytes:
        with relay.socket() as sock:
            sock.sendall(data)
            return read_all(sock)

    def v2(self, source: str, command: int = 1) -> bytes:
        body = socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 40000, 25)
        return self.V2 + struct.pack("!BBH", 0x20 | command, 0x11, len(body)) + body

    def test_v1_and_v2_name_the_client(self) -> None:
        relay = self.proxied()
        for header in (b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\n", self.v2("192.0.2.7")):
            with self.subTest(header=header):
                answer = self.talk(relay, header + b"QUIT\r\n")
                self.assertRegex(answer, rb"^220 ")

    def test_the_named_client_must_be_allowed(self) -> None:
        relay = self.proxied()
        for header in (b"PROXY TCP4 198.51.100.7 127.0.0.1 40000 25\r\n", self.v2("198.51.100.7")):
            with self.subTest(header=header):
                self.assertRegex(self.talk(relay, header + b"QUIT\r\n"), rb"^554 ")

    def test_the_named_client_is_the_one_in_received_and_log(self) -> None:
        relay = self.proxied()
        header = b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\n"
        lines = header + up_to_data("", f"r@nowhere.{ORIGIN}") + message("p") + b".\r\nQUIT\r\n"
        self.assertIn(b"Queued as", self.talk(relay, lines))
        self.assertEqual(relay.wait_logged("accepted")[0]["client"], "192.0.2.7")

    def test_a_broken_header_is_cut_off(self) -> None:
        relay = self.proxied()
        for header in (b"EHLO no.proxy\r\nQUIT\r\n", b"PROXY TCP4 nonsense\r\n", b"PROXY " + b"x" * 300,
                       self.V2 + b"\x21\x11\xff\xff" + b"z" * 3000, self.V2 + b"\x31\x11\x00\x00"):
            with self.subTest(header=header[:20]):
                self.assertNotIn(b"220 ", self.talk(relay, header))

    def test_a_header_in_single_bytes_is_read(self) -> None:
        relay = self.proxied()
        for header in (b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\n", self.v2("192.0.2.7")):
            with self.subTest(header=header), relay.socket() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in header:
                    sock.sendall(bytes([byte]))
                    time.sleep(0.002)
                sock.sendall(b"QUIT\r\n")
                self.assertRegex(read_all(sock), rb"^220 ")

    def test_without_a_balancers_address_a_header_is_no_command(self) -> None:
        world = self.world()
        relay = world.start()
        answer = self.talk(relay, b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\nQUIT\r\n")
        self.assertIn(b"500 ", answer)


class SlowClients(LimitTest):
    """Clients that sleep, trickle or flood cost the others nothing."""

    limit_s = 60

    def test_two_thousand_idle_connections_and_the_rest_is_served(self) -> None:
        count = 500 if SANITIZED else 2000
        limits = {"connections_max": count + 100, "connections_per_client_max": count + 100}
        world, relay, recipient = self.relay(submission=limits)
        idle = []
        for _ in range(count):
            sock = relay.socket()
            self.addCleanup(sock.close)
            idle.append(sock)
        for sock in idle:
            self.assertTrue(sock.recv(512).startswith(b"220 "))
        for number in range(20):
            self.still_serves(world, relay, recipient, f"among-idle-{number}")
        idle[0].sendall(b"NOOP\r\n")
        self.assertTrue(idle[0].recv(512).startswith(b"250 "))

    def test_without_descriptors_callers_wait_and_nothing_spins(self) -> None:
        """The kernel keeps callers, and would tell of them all the time. Those that leave make room for the next."""
        room, watched_s = 20, 2.0
        world, relay, recipient = self.relay()
        assert relay.process is not None
        pid = relay.process.pid
        relay.wait_unoccupied()
        limit = len(os.listdir(f"/proc/{pid}/fd")) + room
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        callers = [relay.socket() for _ in range(3 * room)]
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == limit, "the last descriptor to be used")
        before = cpu_seconds(pid)
        time.sleep(watched_s)
        self.assertLess(cpu_seconds(pid) - before, watched_s / 4)
        for caller in callers:
            caller.close()
        self.still_serves(world, relay, recipient)

    def test_connections_are_shared_among_the_workers(self) -> None:
        """Each worker watches its own with its own epoll, so the kernel tells how many that are."""
        workers, callers = 4, 200
        world = self.world(workers={"threads": workers})
        relay = world.start()
        assert relay.process is not None
        relay.wait_unoccupied()
        before = watched(relay.process.pid)
        for _ in range(callers):
            sock = relay.socket()
            self.addCleanup(sock.close)
            self.assertTrue(sock.recv(512).startswith(b"220 "))
        after = watched(relay.process.pid)
        shares = sorted((after[epoll] - before.get(epoll, 0) for epoll in after), reverse=True)[:workers]
        self.assertEqual(sum(shares), callers)
        self.assertGreaterEqual(min(shares), callers // workers // 2, shares)

    def test_a_byte_a_second_costs_the_others_nothing(self) -> None:
        world, relay, recipient = self.relay()
        done = threading.Event()
        sock = relay.socket()
        self.addCleanup(sock.close)

        def trickle() -> None:
            for byte in b"EHLO trickle.example\r\n" * 10:
                if done.wait(1):
                    return
                sock.sendall(bytes([byte]))
        thread = threading.Thread(target=trickle)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(done.set)
        for number in range(100):
            self.still_serves(world, relay, recipient, f"beside-{number}")

    def test_a_client_that_never_ends_its_command_is_cut_off(self) -> None:
        """The limit holds for the whole command: a byte now and then does not move it."""
        _, relay, _ = self.relay(submission={"command_timeout": "3s"})
        with relay.socket() as sock:
            sock.recv(512)
            answer = say_until_told(sock, b"x", 0.2)
        self.assertRegex(answer, rb"^421 4\.4\.2 ")

    def test_an_idle_client_is_cut_off(self) -> None:
        _, relay, _ = self.relay(submission={"idle_timeout": "1s"})
        with relay.socket() as sock:
            self.assertRegex(read_all(sock), rb"^220 [^\r\n]*\r\n421 4\.4\.2 ")

    def test_a_content_that_takes_too_long_is_cut_off_and_not_kept(self) -> None:
        world, relay, recipient = self.relay(submission={"message_timeout": "3s"})
        with relay.socket() as sock:
            sock.sendall(up_to_data(SENDER, recipient))
            answer = b""
            while b"\r\n354 " not in answer:
                answer += sock.recv(4096)
            self.assertIn(b"421 4.4.2", say_until_told(sock, b"a line\r\n", 0.2))
        self.still_serves(world, relay, recipient)
        self.assertEqual(len(world.exchanges.accepted()), 1)

    def test_a_session_ends_at_its_limit_but_not_in_the_midst_of_a_content(self) -> None:
        session_s = 2
        world, relay, recipient = self.relay(submission={"session_timeout": f"{session_s}s"})
        began = time.monotonic()
        with relay.socket() as sock:
            sock.sendall(up_to_data(SENDER, recipient))
            answer = b""
            while b"\r\n354 " not in answer:
                answer += sock.recv(4096)
            while time.monotonic() < began + session_s + 1:  # nothing is said meanwhile
                self.assertEqual(select.select([sock], [], [], 0.1)[0], [])
                sock.sendall(b"a line\r\n")
            sock.sendall(b".\r\n")
            self.assertRegex(read_all(sock), rb"^250 2\.0\.0 [^\r\n]*\r\n421 4\.4\.2 ")
        wait_until(world.exchanges.accepted, "the message")

    def test_a_client_that_does_not_read_its_replies_is_held_back_and_then_served(self) -> None:
        world, relay, recipient = self.relay()
        before = relay.resident_kb()
        with relay.socket() as sock:
            sock.recv(512)
            sock.settimeout(1)
            sent = 0
            try:
                while sent < 500_000_000:
                    sent += sock.send(b"NOOP\r\n" * 10_000)
            except TimeoutError:
                pass
            self.assertLess(sent, 500_000_000, "the relay kept taking commands whose replies nobody reads")
            if not SANITIZED:
                self.assertLess(relay.resident_kb() - before, 5000)
            self.still_serves(world, relay, recipient)
            sock.settimeout(WAIT_LIMIT)
            replies, missing = 0, sent // len(b"NOOP\r\n")
            while replies < missing:
                block = sock.recv(1 << 20)
                self.assertNotEqual(block, b"", "closed instead of answered")
                replies += block.count(b"\n")

    def test_two_hundred_submitters_at_once(self) -> None:
        world, relay, recipient = self.relay()
        failures: list[BaseException] = []
        together = threading.Barrier(200)

        def submit(number: int) -> None:
            try:
                with relay.connect() as client:
                    client.ehlo()
                    together.wait(WAIT_LIMIT)
                    client.sendmail(SENDER, [recipient], message(f"at-once-{number}"))
            except BaseException as failure:  # noqa: BLE001 - it is told by the main thread
                failures.append(failure)
        threads = [threading.Thread(target=submit, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        wait_until(lambda: len(world.exchanges.accepted()) >= 200, "200 messages")
        names = {record["message_id"] for record in world.exchanges.accepted()}
        self.assertEqual(len(names), 200)


class DeliveryRoom(LimitTest):
    """Few outgoing connections must serve many destinations."""

    def test_more_destinations_than_connections_are_all_served(self) -> None:
        world = self.world(delivery={"connections_max": 4})
        exchanges = [world.exchange("good") for _ in range(60)]
        domains = [world.mx(f"d{n}", address) for n, address in enumerate(exchanges)]
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}" for domain in domains], "wide")
        wait_until(lambda: len(world.recipients_taken("wide")) == 60, "all destinations")

    def test_silent_exchanges_do_not_hold_up_the_healthy(self) -> None:
        world = self.world(delivery={"connections_max": 200})
        hung = [world.exchange("silent@GREETING") for _ in range(30)]
        for number, address in enumerate(hung):
            world.mx(f"hung{number}", address)
        well, _ = world.domain("well", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@hung{n}.{ORIGIN}" for n in range(30)], "hung")
        wait_until(lambda: all(world.exchanges.connections(a) for a in hung), "all silent exchanges to be called")
        for number in range(50):
            relay.send(SENDER, [f"r@{well}"], f"well-{number}")
        for number in range(50):
            world.wait_accepted(f"well-{number}")
        self.assertIn(RELAY_NAME, world.exchanges.accepted("well-0")[0]["helo"])


if __name__ == "__main__":
    main()
