"""Postfix and Exim as they are: what they make of our SMTP."""

from __future__ import annotations

import email
import email.policy

from harness import E2ETest, ORIGIN, World, content_of, main, message, wait_until
from mailservers import Exim, Postfix, domain_of

SENDER = f"sender@postbox.{ORIGIN}"
PEERS = {"postfix": Postfix, "exim": Exim}


class RealServers(E2ETest):
    limit_s = 60

    def with_peer(self, kind: str, **settings: str) -> tuple[World, Postfix | Exim, str]:
        """A relay and one real server that is the exchange of the domain named like it."""
        world = self.world()
        address = world.address()
        domain = domain_of(kind)
        peer = PEERS[kind](world._subfolder(kind), address, world.delivery_port, domain, **settings)
        world.helpers.append(peer)
        world.mx(kind, address)
        world.zone.add(f"else MX 10 mx1.{kind}")  # a domain that its exchange does not know
        world.start()
        return world, peer, domain

    def arrives_unchanged(self, kind: str, body: str | bytes, options: tuple[str, ...] = ()) -> bytes:
        world, peer, domain = self.with_peer(kind)
        world.relay.send(SENDER, [f"r@{domain}"], "m", body, options)
        world.relay.wait_logged("delivered", recipient=f"r@{domain}")
        raw = (wait_until(peer.messages, f"the message in {kind}'s maildir") or [b""])[0]
        sent = message("m", body, SENDER).partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")
        self.assertEqual(raw.replace(b"\r\n", b"\n").partition(b"\n\n")[2], sent)
        parsed = email.message_from_bytes(raw, policy=email.policy.default)
        self.assertEqual(parsed["Message-ID"], f"<m@{ORIGIN}>")
        self.assertEqual(parsed["Return-Path"] or f"<{SENDER}>", f"<{SENDER}>")
        return raw

    def many_arrive_once(self, kind: str) -> None:
        world, peer, domain = self.with_peer(kind)
        count = 100
        with world.relay.connect() as client:
            for number in range(count):
                client.sendmail(SENDER, [f"r@{domain}"], message(f"m{number}", content_of(3000)))
        wait_until(lambda: len(peer.messages()) >= count, f"{count} messages in {kind}'s maildir", pause=0.2)
        world.relay.wait_logged("delivered", count)
        identities = [email.message_from_bytes(raw)["Message-ID"] for raw in peer.messages()]
        self.assertEqual(len(identities), count)
        self.assertEqual(len(set(identities)), count)

    def foreign_recipients_bounce(self, kind: str) -> None:
        """The server refuses one recipient and takes the other of the same transaction."""
        world, peer, domain = self.with_peer(kind)
        foreign = f"else.{ORIGIN}"
        world.relay.send("", [f"r@{domain}", f"r@{foreign}"], "m")
        world.relay.wait_logged("delivered", recipient=f"r@{domain}")
        line = world.relay.wait_logged("bounced", recipient=f"r@{foreign}")[0]
        self.assertEqual(line["code"] // 100, 5)
        wait_until(peer.messages, "the message that was taken")
        self.assertEqual(len(peer.messages()), 1)

    def test_postfix_takes_a_message_unchanged(self) -> None:
        self.arrives_unchanged("postfix", "Hello.\r\n.\r\n..two\r\n\r\nlast\r\n")

    def test_exim_takes_a_message_unchanged(self) -> None:
        self.arrives_unchanged("exim", "Hello.\r\n.\r\n..two\r\n\r\nlast\r\n")

    def test_postfix_takes_8bit_and_large_content(self) -> None:
        self.arrives_unchanged("postfix", "Grüße\r\n".encode() * 200_000, ("BODY=8BITMIME",))

    def test_exim_takes_8bit_and_large_content(self) -> None:
        self.arrives_unchanged("exim", "Grüße\r\n".encode() * 200_000, ("BODY=8BITMIME",))

    def test_postfix_takes_many_once(self) -> None:
        self.many_arrive_once("postfix")

    def test_exim_takes_many_once(self) -> None:
        self.many_arrive_once("exim")

    def test_postfix_refuses_foreign_recipients(self) -> None:
        self.foreign_recipients_bounce("postfix")

    def test_exim_refuses_foreign_recipients(self) -> None:
        self.foreign_recipients_bounce("exim")

    def test_postfix_over_starttls(self) -> None:
        world = self.world()
        world.exchanges.prepare_certificate()
        address, domain = world.address(), domain_of("tls")
        files = {"smtpd_tls_cert_file": str(world.exchanges.folder / "cert.pem"),
                 "smtpd_tls_key_file": str(world.exchanges.folder / "key.pem"), "smtpd_tls_security_level": "encrypt"}
        peer = Postfix(world._subfolder("postfix"), address, world.delivery_port, domain, **files)
        world.helpers.append(peer)
        world.mx("tls", address)
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        line = relay.wait_logged("delivered")[0]
        self.assertTrue(line["tls"].startswith("TLSv1."))
        wait_until(peer.messages, "the message in Postfix's maildir")

    def test_a_silent_exchange_in_front_of_postfix(self) -> None:
        """The case this relay is for, with a real second exchange."""
        world = self.world()
        silent, address, domain = world.exchange("silent@GREETING"), world.address(), domain_of("origin")
        peer = Postfix(world._subfolder("postfix"), address, world.delivery_port, domain)
        world.helpers.append(peer)
        world.mx("origin", silent, address)
        relay = world.start()
        for number in range(3):
            relay.send(SENDER, [f"r@{domain}"], f"m{number}")
            relay.wait_logged("delivered", number + 1)
        wait_until(lambda: len(peer.messages()) == 3, "three messages in Postfix's maildir")


if __name__ == "__main__":
    main()
