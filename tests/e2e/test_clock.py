"""The wall clock is set, forward or back, while the relay runs and while it does not: no retry is lost, nothing is
returned before its time. tests/preload/clock.c moves the relay's wall clock and leaves the monotonic one alone, as the
kernel does when an administrator or a time service sets it."""

from __future__ import annotations

import struct

from harness import E2ETest, ORIGIN, World, main, stays

SENDER = f"sender@{ORIGIN}"
DAY = 86400
RETRIES = {"first": "1s", "max": "2s", "age_limit": "1h", "delay_notice": "30m"}


class Clock(E2ETest):
    """A message waits for its retry when the clock is set."""

    def deferred(self) -> World:
        """A relay with one message that has been deferred."""
        world = self.world(retry=RETRIES)
        self.flag = world.folder / "later"
        self.flag.touch()
        self.domain, _ = world.domain("one", f"reply@RCPT=450 4.2.0 Later;while={self.flag}")
        world.domain("example", "good")
        self.clock = world.relay.preload("clock", "ONWARD_CLOCK", 8)
        relay = world.start()
        relay.send(SENDER, [f"r@{self.domain}"], "m", rcpt_options=["NOTIFY=DELAY,FAILURE"])
        relay.wait_logged("deferred")
        return world

    def set_clock(self, ahead_s: int) -> None:
        struct.pack_into("<q", self.clock, 0, ahead_s)

    def check_arrives(self, world: World) -> None:
        """It goes on being tried, and arrives once the exchange takes it; nothing was returned or told as late."""
        relay = world.relay
        tried = len(relay.logged("deferred"))
        relay.wait_logged("deferred", tried + 2)
        self.flag.unlink()
        world.wait_accepted("m")
        relay.wait_logged("delivered")
        self.assertEqual(relay.logged("bounced"), [])
        self.assertEqual(len(world.exchanges.accepted()), 1)  # no notice either

    def check_set_while_running(self, ahead_s: int) -> None:
        world = self.deferred()
        self.set_clock(ahead_s)
        self.check_arrives(world)

    def check_set_between(self, ahead_s: int) -> None:
        world = self.deferred()
        world.relay.terminate()
        self.set_clock(ahead_s)
        world.relay.start()
        self.check_arrives(world)

    def test_a_day_forward(self) -> None:
        self.check_set_while_running(DAY)

    def test_a_day_back(self) -> None:
        self.check_set_while_running(-DAY)

    def test_a_year_forward_and_back_again(self) -> None:
        world = self.deferred()
        relay = world.relay
        for ahead_s in (365 * DAY, 0, -365 * DAY, 0):
            self.set_clock(ahead_s)
            relay.wait_logged("deferred", len(relay.logged("deferred")) + 1)
        self.check_arrives(world)

    def test_a_day_back_between_two_processes(self) -> None:
        self.check_set_between(-DAY)

    def test_a_day_forward_between_two_processes(self) -> None:
        """Past its age limit by the clock, it is tried before it is returned."""
        self.check_set_between(DAY)

    def test_connections_keep_their_time_limits(self) -> None:
        world = self.world()
        clock = world.relay.preload("clock", "ONWARD_CLOCK", 8)
        relay = world.start()
        with relay.connect() as client:
            client.ehlo()
            struct.pack_into("<q", clock, 0, 30 * DAY)
            self.assertTrue(stays(lambda: client.noop()[0] == 250, 1))
            struct.pack_into("<q", clock, 0, -30 * DAY)
            self.assertEqual(client.mail(SENDER)[0], 250)


if __name__ == "__main__":
    main()
