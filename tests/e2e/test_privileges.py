"""Whom the relay runs as, and what it can no longer do: started as root it binds, becomes its user and stays that."""

from __future__ import annotations

import http.client
import os
import pathlib
import pwd
import shutil
import signal
import ssl
import stat
import subprocess

from harness import (BINARY, SANITIZED, WAIT_LIMIT, E2ETest, ORIGIN, Ports, Relay, World, main, onward, to_yaml, tool, wait_until)

SENDER = f"sender@{ORIGIN}"
USER = "nobody"
LOW_PORT = 587  # one that only root may bind


def status_of(relay: Relay) -> dict[str, str]:
    """What the kernel says of the process."""
    assert relay.process is not None
    lines = pathlib.Path(f"/proc/{relay.process.pid}/status").read_text(encoding="ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Confined(E2ETest):
    """Whoever starts it."""

    def test_it_gains_no_privileges_and_makes_only_a_relays_system_calls(self) -> None:
        relay = self.world().start()
        status = status_of(relay)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["Seccomp"], "0" if SANITIZED else "2")
        assert relay.process is not None
        threads = list(pathlib.Path(f"/proc/{relay.process.pid}/task").iterdir())
        self.assertGreater(len(threads), 3)
        for thread in threads:
            text = (thread / "status").read_text(encoding="ascii")
            self.assertIn("NoNewPrivs:\t1", text)
            self.assertIn(f"Seccomp:\t{0 if SANITIZED else 2}", text)

    def test_the_filter_can_be_left_out(self) -> None:
        relay = self.world(seccomp=False).start()
        self.assertEqual(status_of(relay)["Seccomp"], "0")

    def test_a_spool_of_another_user_and_one_open_to_others(self) -> None:
        world = self.world()
        relay = world.start()
        relay.terminate()
        spool = relay.config["spool"]["path"]
        os.chmod(spool, 0o755)
        relay.start()
        self.assertEqual(stat.S_IMODE(os.stat(spool).st_mode), 0o700)
        relay.terminate()
        if os.geteuid() == 0:
            shutil.chown(spool, USER)
            done = onward("serve", "-c", relay.config_path)
            self.assertEqual(done.returncode, 75)
            self.assertIn("chown -R", done.stderr)


class AsRoot(E2ETest):
    """Started by root."""

    def as_user(self, **config: object) -> World:
        """A relay that is to become USER, whose folders are made as an administrator would."""
        world = self.world(user=USER, **config)
        relay = world.relay
        for name in ("log", "run"):
            folder = relay.folder / name
            folder.mkdir(mode=0o700)
            shutil.chown(folder, USER)
        os.chmod(relay.config_path, 0o644)
        relay.log_path = relay.log.path = relay.folder / "log" / "onward.log"
        relay.write_config(log={"path": str(relay.log_path)}, control={"socket": str(relay.folder / "run/control.sock")},
                           http={"listen": [{"socket": str(relay.folder / "run/http.sock")}]})
        return world

    def refused(self, config: dict[str, object]) -> subprocess.CompletedProcess[str]:
        world = self.world()
        path = world.folder / "refused.yaml"
        path.write_text(to_yaml({key: value for key, value in {**world.relay.config, **config}.items() if value}))
        return onward("serve", "-c", path)

    def test_it_binds_and_becomes_its_user(self) -> None:
        world = self.as_user()
        domain, _ = world.domain("one", "good")
        relay = world.relay
        relay.port = LOW_PORT
        relay.write_config(submission={"listen": [{"address": f"127.0.0.1:{LOW_PORT}", "proxy_protocol": False}]})
        world.start()
        status = status_of(relay)
        user = pwd.getpwnam(USER)
        self.assertEqual(status["Uid"].split(), [str(user.pw_uid)] * 4)
        self.assertEqual(status["Gid"].split(), [str(user.pw_gid)] * 4)
        self.assertEqual({int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}, {0})
        spool = os.stat(relay.config["spool"]["path"])
        self.assertEqual((spool.st_uid, stat.S_IMODE(spool.st_mode)), (user.pw_uid, 0o700))
        self.assertEqual(relay.log_path.stat().st_uid, user.pw_uid)
        relay.send(SENDER, [f"r@{domain}"], "m")
        world.wait_accepted("m")
        relay.restart()
        relay.send(SENDER, [f"r@{domain}"], "again")
        world.wait_accepted("again")

    def test_the_log_is_begun_anew_at_sighup(self) -> None:
        world = self.as_user()
        domain, _ = world.domain("one", "good")
        relay = world.start()
        relay.send(SENDER, [f"r@{domain}"], "m")
        relay.wait_logged("delivered")
        relay.log_path.rename(relay.log_path.with_suffix(".1"))
        assert relay.process is not None
        relay.process.signal(signal.SIGHUP)
        wait_until(relay.log_path.exists, "a new log")
        relay.send(SENDER, [f"r@{domain}"], "m2")
        wait_until(lambda: '"delivered"' in relay.log_path.read_text(encoding="utf-8"), "its lines")

    def ask(self, port: int, token: str) -> int:
        """The status of a question that needs the token, over TLS."""
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=WAIT_LIMIT, context=context)
        try:
            connection.request("GET", "/api/control/status", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def test_tokens_and_key_that_only_root_may_read_are_read_before_and_a_reload_that_cannot_keeps_them(self) -> None:
        world = self.as_user()
        relay, port = world.relay, Ports.take()
        secrets = relay.folder / "secrets"
        secrets.mkdir(mode=0o700)
        subprocess.run([tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-days", "2", "-subj", "/CN=relay", "-keyout", str(secrets / "key"), "-out",
                        str(secrets / "certificate")], check=True, capture_output=True)
        tokens = secrets / "tokens"
        tokens.write_text(f"viewer read {'a' * 32}\n")
        tokens.chmod(0o600)
        relay.write_config(http={"listen": [{"address": f"127.0.0.1:{port}", "tls": True}], "token_file": str(tokens),
                                 "tls_certificate": str(secrets / "certificate"), "tls_key": str(secrets / "key")})
        world.start()
        self.assertEqual(status_of(relay)["Uid"].split()[0], str(pwd.getpwnam(USER).pw_uid))
        self.assertEqual((self.ask(port, "a" * 32), self.ask(port, "b" * 32)), (200, 401))
        tokens.write_text(f"viewer read {'b' * 32}\n")
        assert relay.process is not None
        relay.process.signal(signal.SIGHUP)
        told = relay.wait_logged("tokens_not_reloaded")[0]["text"]
        self.assertIn(f"cannot read http.token_file {tokens}", told)
        self.assertEqual((self.ask(port, "a" * 32), self.ask(port, "b" * 32)), (200, 401))
        secrets.chmod(0o711)
        shutil.chown(tokens, USER)
        relay.process.signal(signal.SIGHUP)
        relay.wait_logged("reloaded", 2)
        wait_until(lambda: (self.ask(port, "a" * 32), self.ask(port, "b" * 32)) == (401, 200), "the new token to hold")

    def test_root_must_be_meant(self) -> None:
        done = self.refused({"user": None})
        self.assertEqual(done.returncode, 77)
        self.assertIn("started as root without `user`", done.stderr)

    def test_an_unknown_user_is_told_with_what_to_do(self) -> None:
        done = self.refused({"user": "no-such-user"})
        self.assertEqual(done.returncode, 77)
        self.assertIn("useradd", done.stderr)


class AsSomebody(E2ETest):
    """Started by another user."""

    def test_only_root_can_become_another_user(self) -> None:
        world = self.world()
        path = world.folder / "refused.yaml"
        path.write_text(to_yaml({**world.relay.config, "user": "root"}))
        os.chmod(path, 0o644)
        become = (lambda: os.setuid(pwd.getpwnam(USER).pw_uid)) if os.geteuid() == 0 else None
        binary = shutil.copy(BINARY, world.folder / "onward")  # the project may lie where only root may look
        done = subprocess.run([binary, "serve", "-c", path], capture_output=True, text=True, timeout=WAIT_LIMIT, check=False,
                              preexec_fn=become)
        self.assertEqual(done.returncode, 77)
        self.assertIn("only root can become root", done.stderr)


if os.geteuid() != 0:
    del AsRoot  # what root does cannot be seen without being root

if __name__ == "__main__":
    main()
