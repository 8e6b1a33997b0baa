"""What bench/suite/hung.py measures, in small and by counts instead of times: a hung exchange in front of many domains, and 30 % of all exchanges hung.

The bounds are those of the relay's rules. A destination that nobody has reached has a handful of lanes, and a lane opens one
connection to the hung exchange before it is known: by its second lost patience the exchange is demoted, and a lane that
starts from then on begins with the other one. So what hangs sees at most one connection for each lane that was open by then,
and the probes, one at a time in the whole process, each at the earliest `demote_first` less a tenth after the last.
"""

from __future__ import annotations

import pathlib
import sys

from harness import E2ETest, Relay, World, main, scaled

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))

from suite.load import Load, Mail  # noqa: E402  (its folder was just put on the path)
from suite.sinks import Sink  # noqa: E402

LANES = 3  # of a destination that nobody has reached yet (core/queue/destination.c)
HUNG = "127.2.0.1"
LIMIT_S = 150.0
PROBES_MAX = 1  # none is due while a test runs; one for good measure
# A well exchange that stands still for seconds is not found slow.
RULES = {"health": {"demote_first": "10m"}, "delivery": {"patience_min": "5s"}}


def submit(relay: Relay, group: str, label: str, domains: int, each: int = 1) -> None:
    """So many messages for each of the domains LABEL0, LABEL1, ..., all accepted."""
    Load(Mail(size=2048, domains=domains, label=label), domains * each, group, ("127.0.0.1", relay.port)).finish(LIMIT_S)


class Scale(E2ETest):
    limit_s = 60

    def sink(self, world: World, hung: str) -> Sink:
        sink = Sink(world.delivery_port, hung=[hung])
        world.helpers.append(sink)
        return sink

    def delivered_once(self, sink: Sink, group: str, count: int) -> None:
        sink.goal(group, count)
        sink.wait_goal(group, LIMIT_S)
        found = sink.group(group)
        self.assertEqual((found["messages"], found["distinct"]), (count, count))

    def one_hung_in_front_of_many(self, own_second: bool) -> tuple[int, int]:
        """All domains' first exchange is the same and hangs; mail for all at once, then for all again. Returns how many
        domains there were, and how many connections the hung exchange got."""
        world = self.world(**RULES)
        count = scaled(200)
        world.zone.add(f"first A {HUNG}", "second A 127.3.0.1")
        for number in range(count):
            second = f"mx.d{number}" if own_second else "second"
            world.zone.add(f"d{number} MX 10 first", f"d{number} MX 20 {second}", f"mx.d{number} A 127.10.0.{number + 1}")
        sink = self.sink(world, f"{HUNG}/32")
        relay = world.start()
        submit(relay, "a", "d", count)
        self.delivered_once(sink, "a", count)
        found_out = sink.prefix(f"{HUNG}/32")["connections"]
        self.assertGreater(found_out, 0)
        submit(relay, "b", "d", count)
        self.delivered_once(sink, "b", count)
        in_all = sink.prefix(f"{HUNG}/32")["connections"]
        self.assertLessEqual(in_all, found_out + PROBES_MAX, "an exchange known to hang was called again")
        self.assertEqual(relay.logged("deferred"), [])
        return count, in_all

    def test_one_hung_exchange_of_a_shared_destination_costs_its_lanes_at_most(self) -> None:
        _, connections = self.one_hung_in_front_of_many(own_second=False)
        self.assertLessEqual(connections, LANES + PROBES_MAX)

    def test_one_hung_exchange_before_many_destinations_costs_a_connection_for_each_at_most(self) -> None:
        """Each destination has one message and so one lane."""
        domains, connections = self.one_hung_in_front_of_many(own_second=True)
        self.assertLessEqual(connections, domains + PROBES_MAX)

    def thirty_percent_hung(self, pairs: bool) -> tuple[World, Sink, int]:
        """A hundred exchanges, and mail for all: that for the well ones arrives. Then returns, with how much waits."""
        world = self.world(**RULES)
        each, wells, ills = scaled(40), 70, 30
        for number in range(wells):
            world.mx(f"w{number}", f"127.10.0.{number + 1}")
        for number in range(ills):
            second = [f"127.30.0.{number + 1}"] if pairs else []
            world.mx(f"h{number}", f"127.20.0.{number + 1}", *second)
        sink = self.sink(world, "127.20.0.0/16")
        relay = world.start()
        submit(relay, "h", "h", ills, each)
        submit(relay, "w", "w", wells, each)
        self.delivered_once(sink, "w", wells * each)
        hung = sink.prefix("127.20.0.0/16")
        self.assertGreater(hung["open"], 0)
        self.assertLessEqual(hung["connections"], ills * (LANES + PROBES_MAX))
        return world, sink, ills * each

    def test_all_mail_for_the_others_is_delivered_while_thirty_percent_are_silent(self) -> None:
        world, sink, _ = self.thirty_percent_hung(pairs=False)
        self.assertEqual(sink.group("h")["messages"], 0)
        self.assertEqual(world.relay.logged("bounced"), [])

    def test_a_second_exchange_takes_the_mail_of_those_that_are_silent(self) -> None:
        world, sink, waiting = self.thirty_percent_hung(pairs=True)
        self.delivered_once(sink, "h", waiting)
        self.assertEqual(world.relay.logged("deferred"), [])


if __name__ == "__main__":
    main()
