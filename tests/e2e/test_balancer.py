"""Two relays behind HAProxy: one is drained, then one killed, under load. Senders see 250, a clean 421, or have to connect
again; nothing that was accepted is lost; the client's own address is in Received and in the log."""

from __future__ import annotations

import email
from collections.abc import Callable

from balancer import BalancedRelay, Fleet
from harness import E2ETest, content_of, main, scaled, wait_until

SENDERS = 6
INJECTORS = 2
DOMAINS = 10


class Balanced(E2ETest):
    limit_s = 120

    def fleet(self) -> Fleet:
        world = self.world()
        addresses = [world.exchange("good") for _ in range(4)]
        names = [world.mx(f"d{n}", addresses[n % 4]) for n in range(DOMAINS)]
        fleet = Fleet(world, SENDERS, INJECTORS, [f"r@{name}" for name in names], content_of(2000))
        self.addCleanup(fleet.cleanup)
        return fleet

    def all_arrive(self, fleet: Fleet) -> None:
        accepted = fleet.finish_load()
        self.assertEqual(fleet.rude(), [])
        self.assertGreater(fleet.seen()["HTTP 200"], 0)
        wait_until(lambda: not fleet.missing(accepted), "every message that got its 250", pause=0.1)

    def a_relay_goes_and_comes_back(self, end: Callable[[BalancedRelay], None]) -> Fleet:
        fleet = self.fleet()
        relay, other = fleet.relays
        fleet.start_load()
        fleet.wait_more(scaled(200), relay)
        end(relay)
        fleet.wait_more(scaled(200), other)
        fleet.balancer.wait_state(relay.name, "DOWN")
        relay.start()
        fleet.balancer.wait_state(relay.name, "UP")
        fleet.wait_more(scaled(200), relay)
        self.all_arrive(fleet)
        fleet.stop()
        return fleet

    def test_a_relay_is_drained_and_comes_back(self) -> None:
        fleet = self.a_relay_goes_and_comes_back(BalancedRelay.terminate)
        # Nobody was cut off without a word, not even those who had just connected.
        self.assertEqual([where for where in fleet.seen() if where.startswith("lost")], [])
        self.assertEqual(fleet.copies(), 0)

    def test_a_relay_is_killed_and_comes_back(self) -> None:
        self.a_relay_goes_and_comes_back(BalancedRelay.kill)

    def test_the_clients_own_address_is_in_received_and_in_the_log(self) -> None:
        fleet = self.fleet()
        fleet.start_load()
        wait_until(lambda: all(sender.accepted for sender in fleet.senders), "something accepted of each sender")
        self.all_arrive(fleet)
        smtp = {sender.source for sender in fleet.senders[:SENDERS]}
        for line in fleet.world.exchanges.accepted():
            source = line["message_id"].lstrip("<").split("-")[0]
            if source not in smtp:
                continue
            received = email.message_from_bytes(fleet.world.exchanges.content(line))["Received"]
            self.assertIn(f"([{source}])", received)
        wait_until(lambda: smtp <= {line["client"] for relay in fleet.relays for line in relay.logged("accepted")},
                   "the log to name each sender")
        fleet.stop()


if __name__ == "__main__":
    main()
