"""Servers that answer late on purpose, to shake off senders that do not wait: ours must, and must not make others wait.

Each tarpit stands alone at a domain, and first at another one whose second exchange is well. Alone it gets its mail, once.
Beside another it does not hold the mail: that goes to the other, once.
"""

from __future__ import annotations

import unittest
from typing import Any, Callable

from harness import ORIGIN, Relay, SANITIZED, World, hard_limit, main, wait_until
from mailservers import Postfix, Postscreen, domain_of

SENDER = f"sender@postbox.{ORIGIN}"
SLEEP = "sleep 20, permit"  # far longer than patience, and what a busy machine adds to it
LIMIT_S = 150.0

# Real servers and what makes tarpits of them. `smtpd_delay_reject` holds the client restrictions back until RCPT.
REAL: dict[str, tuple[type[Postfix], dict[str, str]]] = {
    "late-greeting": (Postfix, {"smtpd_client_restrictions": SLEEP, "smtpd_delay_reject": "no"}),
    "late-rcpt": (Postfix, {"smtpd_client_restrictions": SLEEP}),
    "postscreen": (Postscreen, {"postscreen_greet_wait": "20s", "postscreen_greet_action": "enforce"}),
}
STUTTER = "stutter@GREETING=1,20"  # a byte a second for twenty seconds, then good


class Tarpits(unittest.TestCase):
    """All side by side on one relay, each domain with a tarpit of its own that nothing is known of."""

    world: World
    relay: Relay

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(hard_limit(900 if SANITIZED else 300, "all tarpits side by side"))
        cls.world = world = World()
        cls.addClassCleanup(world.cleanup, "test_tarpits")
        cls.peers: dict[str, Postfix] = {}
        cls.fast: dict[str, str] = {}
        for kind in REAL:
            cls.start_peer(kind, kind)
            cls.start_peer(f"{kind}-beside", kind)
        cls.stuttering = {label: world.exchange(STUTTER) for label in ("stutter", "stutter-beside")}
        for label, address in cls.stuttering.items():
            cls.name(label, address)
        cls.relay = world.start()
        for label in [*cls.peers, *cls.stuttering]:
            cls.relay.send(SENDER, [f"r@{domain_of(label)}"], label)

    @classmethod
    def tearDownClass(cls) -> None:
        """All of them together must have left the relay whole and within the protocol."""
        cls.world.finish()

    @classmethod
    def start_peer(cls, label: str, kind: str) -> None:
        server, settings = REAL[kind]
        world, address = cls.world, cls.world.address()
        cls.peers[label] = server(world._subfolder(label), address, world.delivery_port, domain_of(label), **settings)
        world.helpers.append(cls.peers[label])
        cls.name(label, address)

    @classmethod
    def name(cls, label: str, first: str) -> None:
        """The domain, with a second exchange where it is to have one."""
        if label.endswith("-beside"):
            cls.fast[label] = cls.world.exchange("good")
            cls.world.mx(label, first, cls.fast[label])
        else:
            cls.world.mx(label, first)

    def delivered(self, label: str) -> dict[str, Any]:
        """The one line of the log that says so."""
        recipient = f"r@{domain_of(label)}"
        self.relay.wait_logged("delivered", limit=LIMIT_S, recipient=recipient)
        lines = [line for event in ("delivered", "deferred", "bounced")
                 for line in self.relay.logged(event, recipient=recipient)]
        self.assertEqual(len(lines), 1, lines)
        return lines[0]

    def arrives_alone(self, kind: str) -> None:
        self.delivered(kind)
        wait_until(self.peers[kind].messages, f"the message in the maildir of {kind}", LIMIT_S)
        self.assertEqual(len(self.peers[kind].messages()), 1)

    def goes_to_the_other(self, kind: str) -> None:
        label = f"{kind}-beside"
        self.delivered(label)
        taken = self.world.wait_accepted(label)
        self.assertEqual([record["at"] for record in taken], [self.world.exchanges.at(self.fast[label])])
        self.wait_let_go(label)
        self.assertEqual(self.peers[label].messages(), [])

    def wait_let_go(self, label: str) -> None:
        """The tarpit has seen the end of all its connections: the relay's, and the one that found it listening."""
        def all_over() -> bool:
            log = self.peers[label].log()
            served = log.count(": connect from") - log.count(": disconnect from")  # by smtpd
            if not isinstance(self.peers[label], Postscreen):
                return log.count(": connect from") > 1 and served == 0
            tested = log.count(": CONNECT from") - log.count(": DISCONNECT") - log.count(": PASS ")  # passed on to smtpd
            return log.count(": CONNECT from") > 1 and tested + served == 0
        wait_until(all_over, f"{label} to see its connections end", LIMIT_S, pause=0.1)

    def test_a_stuttered_greeting_is_waited_for(self) -> None:
        self.delivered("stutter")
        records = self.world.wait_accepted("stutter")
        self.assertEqual([record["at"] for record in records], [self.world.exchanges.at(self.stuttering["stutter"])])

    def test_a_stuttered_greeting_holds_nothing_beside_another(self) -> None:
        self.delivered("stutter-beside")
        records = self.world.wait_accepted("stutter-beside")
        self.assertEqual([record["at"] for record in records], [self.world.exchanges.at(self.fast["stutter-beside"])])


def add_tests() -> None:
    def make(check: str, kind: str) -> Callable[[Any], None]:
        return lambda self: getattr(self, check)(kind)
    for kind in REAL:
        label = kind.replace("-", "_")
        setattr(Tarpits, f"test_{label}_is_waited_for", make("arrives_alone", kind))
        setattr(Tarpits, f"test_{label}_holds_nothing_beside_another", make("goes_to_the_other", kind))


add_tests()

if __name__ == "__main__":
    main()
