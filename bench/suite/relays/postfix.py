"""Postfix from Debian; its settings, each with its reason, are bench/peers/postfix.cf."""

from __future__ import annotations

import shutil
import subprocess

from ..surroundings import require
from .base import CONCURRENCY, Relay
from harness import ORIGIN, tool


class Postfix(Relay):
    """A Postfix with a configuration, queue and log of its own."""

    name = "postfix"
    pace = 0.08

    @classmethod
    def version(cls) -> str:
        require(shutil.which("postconf", path="/usr/sbin:/usr/bin") is not None,
                "not installed; get it with: apt-get install postfix")
        done = subprocess.run([tool("postconf"), "-dh", "mail_version"], capture_output=True, text=True, check=True)
        return f"Postfix {done.stdout.strip()}"

    def start(self) -> None:
        self.config = self.folder / "etc"
        for path in (self.config, self.folder / "queue", self.folder / "data"):
            path.mkdir()
        shutil.chown(self.folder / "data", "postfix")
        level = "may" if self.setting.tls else "none"
        values = {"folder": self.folder, "origin": ORIGIN, "concurrency": CONCURRENCY, "tls": level,
                  "listen": f"{self.listens[0]}:{self.listens[1]}"}
        (self.config / "main.cf").write_text(self.template("postfix.cf", **values))
        (self.config / "master.cf").write_text(self.template("postfix-master.cf", **values))
        self.run([tool("postfix"), "-c", self.config, "start-fg"])

    def stop(self) -> None:
        subprocess.run([tool("postfix"), "-c", str(self.config), "stop"], capture_output=True, timeout=60, check=False)
        self.process.stop()
