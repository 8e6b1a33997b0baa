"""What goes out before it must: how many round trips a message takes, and that real servers take it so."""

from __future__ import annotations

import datetime
import email
import json
import subprocess
from typing import Any

from harness import ORIGIN, ROOT, E2ETest, Ports, World, main, message, tool, wait_until
from mailservers import Exim, Postfix, domain_of
from test_peers import SENDER

ONE_WAY_MS = 150  # so long that a busy machine's own delays count for little
ROUND_TRIP_S = 2 * ONE_WAY_MS / 1000
DOTS = "Hello.\r\n.\r\n..two\r\n\r\n" + "plain text, and then some more of it\r\n" * 20 + ".last\r\n"


class Helper:
    """A program of the bench that ends with its standard input."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen([str(ROOT / "build/release/bench" / name), *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def moments(lines: list[dict[str, Any]]) -> list[float]:
    return [datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp() for line in lines]


def fewest_trips(times: list[float], messages: int) -> float:
    """The round trips that so many deliveries in a row took, at best: what the machine adds in its bad moments is no part of it,
    and no bad moment makes a reply come before its round trip."""
    return min(later - earlier for earlier, later in zip(times, times[messages:])) / ROUND_TRIP_S


class RoundTrips(E2ETest):
    """One connection with a long round trip in it."""

    limit_s = 90

    def moments(self, world: World, sink_port: int, count: int) -> list[float]:
        """When each of `count` messages was delivered."""
        address = world.address()
        world.helpers.append(Helper("delay", "--listen", f"{address}:{world.delivery_port}", "--to",
                                    f"127.0.0.1:{sink_port}", "--one-way-ms", str(ONE_WAY_MS)))
        domain = world.mx("far", address)
        relay = world.start()
        with relay.connect() as client:
            for number in range(count):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}", DOTS))
        times = moments(relay.wait_logged("delivered", count, limit=150))
        self.assertEqual(relay.logged("exchange_failed"), [])
        self.assertEqual({line["address"] for line in relay.logged("delivered")}, {f"{address}:{world.delivery_port}"})
        return times

    def test_with_pipelining_a_message_takes_one(self) -> None:
        world = self.world(delivery={"connections_per_destination": 1, "tls": "off"})
        port = Ports.take()
        sink = subprocess.Popen([tool("smtp-sink"), "-u", "nobody", f"127.0.0.1:{port}", "100"])
        try:
            times = self.moments(world, port, 20)
        finally:
            sink.terminate()
            sink.wait()
        trips = fewest_trips(times, 3) / 3
        print(f"      PIPELINING: {trips:.2f} round trips for a message")
        self.assertLess(trips, 1.5)  # one; Postfix takes three

    def test_with_chunking_eight_are_in_flight(self) -> None:
        world = self.world(delivery={"connections_per_destination": 1, "tls": "off"})
        sink = Helper("sink", "--chunking")
        world.helpers.append(sink)
        times = self.moments(world, json.loads(sink.first_line)["port"], 400)
        in_flight = 40 / fewest_trips(times, 40)
        print(f"      CHUNKING: {in_flight:.1f} messages in a round trip")
        self.assertGreater(in_flight, 6.5)


class RealServers(E2ETest):
    """Enough messages over one connection for the exchange to be trusted with whatever there is."""

    limit_s = 90

    def one_connection(self, kind: str, peer_class: type, **settings: str) -> Any:
        world = self.world(delivery={"connections_per_destination": 1, "tls": "off"})
        address, domain = world.address(), domain_of(kind)
        peer = peer_class(world._subfolder(kind), address, world.delivery_port, domain, **settings)
        world.helpers.append(peer)
        world.mx(kind, address)
        relay = world.start()
        count = 100
        big = DOTS * 2000  # by DATA, between those that go by BDAT
        with relay.connect() as client:
            for number in range(count):
                client.sendmail(SENDER, [f"r{number}@{domain}"],
                                message(f"m{number}", big if number % 40 == 39 else DOTS))
        wait_until(lambda: len(peer.messages()) >= count, f"{count} messages in {kind}'s maildir", limit=150, pause=0.2)
        relay.wait_logged("delivered", count)
        self.assertEqual(relay.logged("unknown"), [])
        sizes: dict[int, int] = {}
        identities = set()
        for raw in peer.messages():
            parsed = email.message_from_bytes(raw)
            identities.add(parsed["Message-ID"])
            body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
            sizes[len(body)] = sizes.get(len(body), 0) + 1
            self.assertIn(body, (DOTS.replace("\r\n", "\n").encode(), big.replace("\r\n", "\n").encode()))
        self.assertEqual(identities, {f"<m{number}@{ORIGIN}>" for number in range(count)})
        self.assertEqual(len(peer.messages()), count)
        self.assertEqual(sorted(sizes.values()), [count // 40, count - count // 40])
        return peer

    def test_exim_takes_chunks_and_what_is_behind_them(self) -> None:
        exim = self.one_connection("exim", Exim, smtp_accept_max_per_connection="0")
        chunked = [line for line in exim.log().splitlines() if " <= " in line and " K " in line]
        self.assertGreater(len(chunked), 50)

    def test_postfix_takes_chunks_and_what_is_behind_them(self) -> None:
        self.one_connection("postfix", Postfix)

    def test_postfix_without_chunking_takes_what_is_behind_a_contents_end(self) -> None:
        self.one_connection("postfix", Postfix, smtpd_discard_ehlo_keywords="chunking")


if __name__ == "__main__":
    main()
