"""Every shape of records that RFC 5321 5.1 knows, from a real name server: where the mail goes, and in what order."""

from __future__ import annotations

from typing import Any

from harness import E2ETest, ORIGIN, PATIENT, Ports, World, main, merge, wait_until

SENDER = f"sender@postbox.{ORIGIN}"


class Shapes(E2ETest):
    limit_s = 40

    def world(self, **config: Any) -> World:
        return super().world(**merge({"delivery": PATIENT}, config))

    def arrives_at(self, world: World, domain: str, address: str) -> None:
        world.start().send(SENDER, [f"r@{domain}"], "m")
        self.assertEqual(world.wait_accepted("m")[0]["at"], world.exchanges.at(address))

    def test_the_lowest_preference_comes_first(self) -> None:
        world = self.world()
        one, two, three = (world.exchange() for _ in range(3))
        world.zone.add(f"d MX 300 c", f"d MX 5 a", f"d MX 100 b", f"a A {one}", f"b A {two}", f"c A {three}")
        self.arrives_at(world, f"d.{ORIGIN}", one)

    def test_preferences_are_compared_as_numbers(self) -> None:
        world = self.world()
        nine, ten = world.exchange(), world.exchange()
        world.zone.add("d MX 10 ten", "d MX 9 nine", f"ten A {ten}", f"nine A {nine}")
        self.arrives_at(world, f"d.{ORIGIN}", nine)

    def test_equals_are_shuffled(self) -> None:
        world = self.world(delivery={"idle": "10ms"})
        addresses = [world.exchange() for _ in range(3)]
        for number, address in enumerate(addresses):
            world.zone.add(f"d MX 10 m{number}", f"m{number} A {address}")
        relay = world.start()
        seen: set[str] = set()

        def all_seen() -> bool:
            number = len(world.exchanges.accepted())
            relay.send(SENDER, [f"r@d.{ORIGIN}"], f"m{number}")
            world.wait_accepted(f"m{number}")
            seen.update(record["at"] for record in world.exchanges.accepted())
            wait_until(lambda: sum(world.exchanges.open_now(a) for a in addresses) == 0, "idle connections to end")
            return len(seen) == 3
        wait_until(all_seen, "each of three equals to be chosen once")

    def test_all_addresses_of_an_exchange_are_tried(self) -> None:
        world = self.world()
        well = world.exchange()
        refusing = [world.silent_address() for _ in range(3)]
        world.zone.add("d MX 10 m", f"m A {well}", *(f"m A {address}" for address in refusing))
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_without_mx_the_address_is_the_exchange(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add(f"d A {well}")
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_with_an_mx_the_address_is_none(self) -> None:
        """RFC 5321 5.1: MX records that lead nowhere are no reason to use the domain's own address."""
        world = self.world()
        decoy = world.exchange()
        world.zone.add("d MX 10 nowhere", f"d A {decoy}")
        relay = world.start()
        relay.send("", [f"r@d.{ORIGIN}"], "m")
        wait_until(lambda: relay.logged("deferred") or relay.logged("bounced"), "the outcome")
        self.assertEqual(world.exchanges.connections(decoy), 0)

    def test_one_exchange_without_address_does_not_hide_the_next(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("d MX 10 nowhere", "d MX 20 m", f"m A {well}")
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_one_exchange_with_a_broken_zone_does_not_hide_the_next(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("d MX 10 mx.broken.test-zone", "d MX 20 m", f"m A {well}")
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_an_alias_of_the_domain_is_followed(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("alias CNAME d", "d MX 10 m", f"m A {well}")
        self.arrives_at(world, f"alias.{ORIGIN}", well)

    def test_an_exchange_that_is_an_alias_is_followed(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("d MX 10 alias", "alias CNAME m", f"m A {well}")
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_an_alias_in_a_circle_does_no_harm(self) -> None:
        world = self.world()
        world.zone.add("a CNAME b", "b CNAME a")
        relay = world.start()
        relay.send("", [f"r@a.{ORIGIN}"], "m")
        wait_until(lambda: relay.logged("deferred") or relay.logged("bounced"), "the outcome")

    def test_a_wildcard_mx_answers_for_all(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("*.wild MX 10 m", f"m A {well}")
        self.arrives_at(world, f"whatever.wild.{ORIGIN}", well)

    def test_ipv6_exchanges_are_used(self) -> None:
        world = self.world()
        world.exchange("good", "::1")
        domain = world.mx("six", "::1")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        self.assertEqual(world.wait_accepted("m")[0]["at"], f"::1:{world.delivery_port}")

    def test_our_own_name_cuts_it_and_all_behind_it(self) -> None:
        world = self.world()
        better, worse = world.silent_address(), world.exchange()
        world.zone.add("d MX 10 m", "d MX 20 relay", "d MX 30 worse")
        world.zone.add(f"m A {better}", "relay A 127.0.0.1", f"worse A {worse}")
        relay = world.start()
        relay.send("", [f"r@d.{ORIGIN}"], "m")
        relay.wait_logged("deferred")
        self.assertEqual(world.exchanges.connections(worse), 0)

    def test_a_domain_whose_best_exchange_is_this_relay_bounces(self) -> None:
        world = self.world()
        world.zone.add("d MX 10 relay", "relay A 127.0.0.1")
        relay = world.start()
        relay.send("", [f"r@d.{ORIGIN}"], "m")
        self.assertEqual(relay.wait_logged("bounced")[0]["status"], "5.4.6")

    def test_who_listens_on_all_addresses_is_each_of_them(self) -> None:
        world = self.world()
        port = Ports.take()
        listen = world.relay.config["submission"]["listen"] + [{"address": f"*:{port}", "proxy_protocol": False}]
        world.relay.write_config(submission={"listen": listen}, delivery={"port": port})
        relay = world.start()
        relay.send("", ["r@[127.0.0.1]", "r@[127.0.0.9]"], "m")
        self.assertEqual([line["status"] for line in relay.wait_logged("bounced", 2)], ["5.4.6", "5.4.6"])
        self.assertEqual(relay.logged("delivered"), [])  # to itself

    def test_many_exchanges_and_addresses_are_tried_in_order(self) -> None:
        world = self.world()
        well = world.exchange()
        for number in range(30):
            world.zone.add(f"d MX {number} m{number}", f"m{number} A {world.silent_address()}")
        world.zone.add("d MX 99 well", f"well A {well}")
        self.arrives_at(world, f"d.{ORIGIN}", well)

    def test_an_address_literal_is_its_own_route(self) -> None:
        world = self.world()
        well = world.exchange()
        relay = world.start()
        relay.send(SENDER, [f"r@[{well}]"], "m")
        self.assertEqual(world.wait_accepted("m")[0]["at"], world.exchanges.at(well))

    def test_an_internationalized_domain_is_looked_up_by_its_a_label(self) -> None:
        world = self.world()
        well = world.exchange()
        world.zone.add("xn--mnchen-3ya MX 10 m", f"m A {well}")
        relay = world.start()
        relay.send(SENDER, [f"r@xn--mnchen-3ya.{ORIGIN}"], "m")
        self.assertEqual(world.wait_accepted("m")[0]["at"], world.exchanges.at(well))

    def test_route_shows_the_exchanges_in_order(self) -> None:
        world = self.world()
        domain, addresses = world.domain("show", "good", "good")
        relay = world.start()
        done = relay.run("route", domain)
        self.assertEqual(done.returncode, 0, done.stderr)
        places = [done.stdout.index(address) for address in addresses]
        self.assertEqual(places, sorted(places))
        for number in (1, 2):
            self.assertIn(f"mx{number}.{domain}", done.stdout)

    def test_route_of_a_domain_that_is_none_says_so(self) -> None:
        world = self.world()
        relay = world.start()
        done = relay.run("route", f"nowhere.{ORIGIN}")
        self.assertIn("does not exist", done.stdout + done.stderr)


class NameServerOutage(E2ETest):
    """A failed look-up is remembered for half a minute at most."""

    limit_s = 100

    def test_a_dead_name_server_defers_and_mail_flows_when_it_is_back(self) -> None:
        world = self.world(retry={"first": "2s", "max": "2s"})
        domain, _ = world.domain("d", "good")
        relay = world.start()
        world.zone.stop()
        relay.send(SENDER, [f"r@{domain}"], "m")
        relay.wait_logged("deferred")
        world.zone.start()
        world.wait_accepted("m", limit=150)


if __name__ == "__main__":
    main()
