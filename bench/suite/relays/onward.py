"""Onward, with its defaults but for places and names."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import tempfile
from typing import Any, ClassVar

from ..surroundings import BINARY, DNS_PORT, SMTP_PORT, require
from .base import Relay, output_of
from harness import ORIGIN, RELAY_NAME, merge, onward, parse_objects, to_yaml


NEWER_KEYS = {"user": "root", "seccomp": "false"}


class Onward(Relay):
    """`onward serve`."""

    name = "onward"
    pace = 1.0
    remembers_routes = True
    binary: ClassVar[pathlib.Path] = BINARY
    under: ClassVar[tuple[str, ...]] = ()  # a command that runs it, such as valgrind

    @classmethod
    def version(cls) -> str:
        require(cls.binary.exists(), f"{cls.binary} is missing; build it with: make")
        return output_of(cls.binary, "--version")

    def start(self) -> None:
        self.config_path = self.folder / "onward.yaml"
        config = merge(self._config(), dict(self.setting.onward))
        self.config_path.write_text(to_yaml({key: value for key, value in config.items() if self._knows(key)}))
        self.run([*self.under, self.binary, "serve", "-c", self.config_path])

    def _knows(self, key: str) -> bool:
        """Revisions from before these keys are compared too."""
        return key not in NEWER_KEYS or self.knows(key, NEWER_KEYS[key])

    @classmethod
    def knows(cls, key: str, value: str) -> bool:
        """Does this revision's configuration have such a key?"""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(f"hostname: relay.example.net\n{key}: {value}\n")
            file.flush()
            return subprocess.run([cls.binary, "check-config", file.name], capture_output=True,
                                  check=False).returncode == 0

    def _config(self) -> dict[str, Any]:
        tls = "opportunistic" if self.setting.tls else "off"
        return {"hostname": RELAY_NAME, "user": "root", "drain_timeout": "2s",
                "submission": {"listen": [{"address": f"{self.listens[0]}:{self.listens[1]}"}]},
                "spool": {"path": str(self.folder / "spool"), "map_size": "100GB"},
                "delivery": {"port": SMTP_PORT, "tls": tls},
                # The name server's zone hangs below no root here, so it is asked directly and not validated.
                "dns": {"dnssec": False, "stub_zones": [{"zone": ORIGIN, "servers": [f"127.0.0.1@{DNS_PORT}"]}],
                        "unbound": [f"domain-insecure: {ORIGIN}", "do-not-query-localhost: no"]},
                "log": {"path": str(self.folder / "onward.log")},
                "control": {"socket": str(self.folder / "control.sock")}}

    def _listens(self) -> bool:
        """The control socket comes last."""
        with socket.socket(socket.AF_UNIX) as sock:
            return super()._listens() and sock.connect_ex(str(self.folder / "control.sock")) == 0

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that a command prints with --json."""
        done = onward(*arguments, "--json", "-c", self.config_path)
        if done.returncode != 0:
            raise AssertionError(f"onward {' '.join(arguments)}: {done.stderr}")
        return parse_objects(done.stdout)

    def stop(self) -> None:
        os.kill(self.pid(), signal.SIGTERM)
        self.process.wait()

    def pid(self) -> int:
        """The relay's own process, where the tool that runs it is another; a tool that is the same process passes signals on."""
        def is_relay(pid: int) -> bool:
            return os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(self.binary)
        return next(filter(is_relay, self.group.pids()), self.process.pid)
